-- What a run has sent where.

-- name: list_attempts
-- Managed executors are no organization's, and stay without a name. Request ids are compared byte by byte: they are keys
-- of a list, not words.
select e.request_id, e.node_id, e.attempt, e.kind, e.placement, e.state, e.executor_id, x.name as executor_name,
    e.waiting_reason, e.wait_until, e.created_at, e.granted_at, e.finished_at, e.error
from executions e
left join executors x on x.id = e.executor_id
where e.organization_id = $1 and e.run_id = $2
  and ($3::text is null or e.request_id::text collate "C" > $2::text || ':' || $3)
  and (not $4 or e.finished_at is null)
order by e.request_id::text collate "C"
limit $5
