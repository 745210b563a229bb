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
