-- Executions: one request to somebody with I/O. The functions live in migration 0003; each call is one commit.

-- name: create_executions
select outcome, state, output, error, error_message from vespid_x_create_executions($1) order by ord

-- name: grant_executions
select outcome, lease_epoch, organization_id, run_id, workflow_id, node_id, node_type, attempt, kind, requested_by_user_id, payload,
       secret_refs, timeout_ms, on_lost, state, output, error, error_message
from vespid_x_grant_executions($1) order by ord

-- name: finish_executions
-- What a model took is told beside a result, and written in the same statement where that result counts.
select outcome, organization_id, run_id, detail,
       case when outcome in ('applied', 'deferred', 'cancelled') and ($1::jsonb[])[ord] ? 'usage'
           then vespid_x_record_usage(($1::jsonb[])[ord]) else false end as is_metered
from vespid_x_finish_executions($1) order by ord

-- name: append_remote_events
select outcome, run_id, seq from vespid_x_append_remote_events($1) order by ord

-- name: return_executions
select outcome from vespid_x_return_executions($1) order by ord

-- name: note_waiting
select outcome, run_id, seq from vespid_x_note_waiting($1) order by ord

-- name: claim_cloud
select * from vespid_x_claim_cloud($1, $2, $3, $4)

-- name: keep_executions
select outcome, run_id, seq from vespid_x_keep_executions($1) order by ord

-- name: hand_over
select vespid_x_hand_over($1, $2, $3)

-- name: read_resume
select resume, prior, decided from vespid_x_read_resume($1, $2, $3)

-- name: refuse_execution
select * from vespid_x_refuse_execution($1, $2, $3)

-- name: cancel_execution
select * from vespid_x_cancel_execution($1)

-- name: read_execution
select * from vespid_x_read_execution($1)

-- name: read_pending
select * from vespid_x_read_pending($1)

-- name: read_outputs
-- What templates of later nodes may name: the last successful attempt of each node asked for.
select distinct on (e.node_id) e.node_id, e.output
from executions e
where e.run_id = $1 and e.node_id = any ($2) and e.state = 'succeeded'
order by e.node_id, e.attempt desc

-- name: live_leases
select * from vespid_x_live_leases($1, $2)

-- name: sweep_executions
select * from vespid_x_sweep_executions($1)

-- name: now_ms
select (extract(epoch from clock_timestamp()) * 1000)::bigint

-- name: read_ended
select * from vespid_x_read_ended($1)
