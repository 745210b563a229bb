-- What people are asked to allow. All of these run in its tenant. A question past its time is as good as expired, also
-- before the sweep has said so.

-- name: list_approvals
-- Newest first; `what` may be long and is left to the single one.
select id, organization_id, request_id, run_id, workflow_id, node_id, node_type, kind, n, tool, by_role, null as what, hash,
    requested_by_user_id, requested_at, expires_at,
    coalesce(decision, case when expires_at <= now() then 'expired' else 'pending' end) as status,
    decided_by_user_id, decided_by_api_key_id, comment, decided_at
from approvals
where organization_id = $1 and ($2::uuid is null or id < $2) and ($3::uuid is null or run_id = $3)
    and ($4::boolean is null or (decision is null and expires_at > now()) = $4)
order by id desc
limit $5

-- name: read_approval
select id, organization_id, request_id, run_id, workflow_id, node_id, node_type, kind, n, tool, by_role, what, hash,
    requested_by_user_id, requested_at, expires_at,
    coalesce(decision, case when expires_at <= now() then 'expired' else 'pending' end) as status,
    decided_by_user_id, decided_by_api_key_id, comment, decided_at
from approvals
where organization_id = $1 and id = $2

-- name: decide_approval
select vespid_decide_approval($1, $2, $3, $4, $5, $6, $7)

-- name: read_kept_loop
-- The loop that an attempt left, and what people decided of the node's calls so far, in the order in which they were asked.
select e.output->'loop' as state,
    coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('n', a.n, 'tool', a.tool, 'digest', a.digest, 'decision', a.decision,
                                                                     'comment', a.comment)) order by a.requested_at, a.n)
              from approvals a
              where a.run_id = e.run_id and a.node_id = e.node_id and a.kind = 'tool' and a.decision <> 'cancelled'), '[]') as approvals
from executions e
where e.request_id = $1
