-- name: list_runs
-- Of one workflow, newest first.
select id, organization_id, workflow_id, trigger_type, status, attempt_count, max_attempts, next_attempt_at,
    requested_by_user_id, input, error, error_message, cursor, created_at, started_at, finished_at,
    retry_of_run_id, retry_from_node_id
from workflow_runs
where organization_id = $1 and workflow_id = $2 and ($3::uuid is null or id < $3)
order by id desc
limit $4

-- name: read_run
select id, organization_id, workflow_id, trigger_type, status, attempt_count, max_attempts, next_attempt_at,
    requested_by_user_id, input, error, error_message, cursor, created_at, started_at, finished_at,
    retry_of_run_id, retry_from_node_id
from workflow_runs
where organization_id = $1 and workflow_id = $2 and id = $3

-- name: list_org_runs
-- Of every workflow, newest first. The three that follow are the same with a status; each has an index of its own.
select r.id, r.organization_id, r.workflow_id, r.trigger_type, r.status, r.attempt_count, r.max_attempts, r.next_attempt_at,
    r.requested_by_user_id, r.input, r.error, r.error_message, r.cursor, r.created_at, r.started_at, r.finished_at,
    r.retry_of_run_id, r.retry_from_node_id,
    w.name as workflow_name
from workflow_runs r join workflows w on w.organization_id = r.organization_id and w.id = r.workflow_id
where r.organization_id = $1
  and ($2::uuid is null or r.id < $2) and ($3::uuid is null or r.workflow_id = $3)
  and ($4::text is null or r.trigger_type = $4)
order by r.id desc
limit $5

-- name: list_unfinished_runs
select r.id, r.organization_id, r.workflow_id, r.trigger_type, r.status, r.attempt_count, r.max_attempts, r.next_attempt_at,
    r.requested_by_user_id, r.input, r.error, r.error_message, r.cursor, r.created_at, r.started_at, r.finished_at,
    r.retry_of_run_id, r.retry_from_node_id,
    w.name as workflow_name
from workflow_runs r join workflows w on w.organization_id = r.organization_id and w.id = r.workflow_id
where r.organization_id = $1 and r.finished_at is null and r.status = $6
  and ($2::uuid is null or r.id < $2) and ($3::uuid is null or r.workflow_id = $3)
  and ($4::text is null or r.trigger_type = $4)
order by r.id desc
limit $5

-- name: list_unhappy_runs
select r.id, r.organization_id, r.workflow_id, r.trigger_type, r.status, r.attempt_count, r.max_attempts, r.next_attempt_at,
    r.requested_by_user_id, r.input, r.error, r.error_message, r.cursor, r.created_at, r.started_at, r.finished_at,
    r.retry_of_run_id, r.retry_from_node_id,
    w.name as workflow_name
from workflow_runs r join workflows w on w.organization_id = r.organization_id and w.id = r.workflow_id
where r.organization_id = $1 and r.status in ('failed', 'cancelled') and r.status = $6
  and ($2::uuid is null or r.id < $2) and ($3::uuid is null or r.workflow_id = $3)
  and ($4::text is null or r.trigger_type = $4)
order by r.id desc
limit $5

-- name: list_succeeded_runs
select r.id, r.organization_id, r.workflow_id, r.trigger_type, r.status, r.attempt_count, r.max_attempts, r.next_attempt_at,
    r.requested_by_user_id, r.input, r.error, r.error_message, r.cursor, r.created_at, r.started_at, r.finished_at,
    r.retry_of_run_id, r.retry_from_node_id,
    w.name as workflow_name
from workflow_runs r join workflows w on w.organization_id = r.organization_id and w.id = r.workflow_id
where r.organization_id = $1 and r.status = 'succeeded'
  and ($2::uuid is null or r.id < $2) and ($3::uuid is null or r.workflow_id = $3)
  and ($4::text is null or r.trigger_type = $4)
order by r.id desc
limit $5

-- name: read_any_run
-- Whichever workflow it is of.
select r.id, r.organization_id, r.workflow_id, r.trigger_type, r.status, r.attempt_count, r.max_attempts, r.next_attempt_at,
    r.requested_by_user_id, r.input, r.error, r.error_message, r.cursor, r.created_at, r.started_at, r.finished_at,
    r.retry_of_run_id, r.retry_from_node_id,
    w.name as workflow_name
from workflow_runs r join workflows w on w.organization_id = r.organization_id and w.id = r.workflow_id
where r.organization_id = $1 and r.id = $2

-- name: workflow_exists
select exists (select from workflows where organization_id = $1 and id = $2)

-- name: list_blocked
-- What runs wait for, the oldest first; of what people are asked, that which they have not decided.
select e.run_id, e.request_id, e.node_id, e.kind, e.created_at, e.act_by,
    case when e.placement = 'person' then array(
        select a.id from approvals a where a.request_id = e.request_id and a.decision is null order by a.n, a.id) end as approval_ids
from executions e
where e.organization_id = $1 and e.run_id = any ($2::uuid[]) and e.finished_at is null
order by e.created_at, e.request_id

-- name: read_node_end
-- Of the node's latest attempt that has ended; neither what people decided nor a loop that waits for them is an answer.
select output
from executions
where organization_id = $1 and run_id = $2 and node_id = $3 and finished_at is not null
    and placement <> 'person' and error is distinct from 'APPROVAL_REQUIRED'
order by attempt desc
limit 1

-- name: list_outputs
-- Of the latest ended attempt of each node, in full; see above.
select distinct on (node_id) node_id, output
from executions
where organization_id = $1 and run_id = $2 and finished_at is not null
    and placement <> 'person' and error is distinct from 'APPROVAL_REQUIRED'
order by node_id, attempt desc

-- name: list_events
-- seq is given in commit order within a run, so a page never misses what a later read would show below it.
select id, seq, organization_id, workflow_id, run_id, attempt_count, event_type, node_id, node_type, level, message,
    payload, created_at
from workflow_run_events
where run_id = $1 and seq > $2
order by seq
limit $3

-- name: read_progress
-- How far the run's events go, and whether there will be more.
select event_seq, finished_at is not null as is_finished
from workflow_runs
where organization_id = $1 and workflow_id = $2 and id = $3

-- name: cancel_run
select vespid_cancel_run($1, $2)

-- name: create_runs
select outcome, created_at, detail from vespid_create_runs($1::jsonb[]) order by ord
