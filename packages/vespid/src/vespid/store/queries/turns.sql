-- Turns as gateways move them on. The functions live in migration 0005; each call is one commit.

-- name: look_at_session
select * from vespid_look_at_session($1, $2)

-- name: lease_turns
select outcome, session, user_id, payload, prior, history, memory, is_pin_moved, remaining_ms from vespid_x_lease_turns($1) order by ord

-- name: append_turn_events
select outcome, event_seq from vespid_x_append_turn_events($1) order by ord

-- name: finish_turns
-- What a model took is told beside an end, and written in the same statement where that end counts.
select outcome, event_seq, created_at, has_next, is_ours, memory_version,
       case when outcome in ('applied', 'cancelled') and ($1::jsonb[])[ord] ? 'usage'
           then vespid_x_record_turn_usage(($1::jsonb[])[ord]) else false end as is_metered
from vespid_x_finish_turns($1) order by ord

-- name: lose_turns
select outcome, event_seq, has_next from vespid_x_lose_turns($1) order by ord

-- name: note_turn_waiting
select vespid_note_turn_waiting($1, $2, $3, $4, $5, $6)

-- name: fail_unplaced_turn
select vespid_fail_unplaced_turn($1, $2, $3, $4, $5, $6, $7)

-- name: is_cut_off
-- By one clock, which is not that of whoever asks.
select $3::timestamptz > now() - $2::int * interval '1 ms' and vespid_x_is_cut_off($1, $2)

-- name: turns_of_executor
select * from vespid_x_turns_of_executor($1)

-- name: attach_turns
select * from vespid_x_attach_turns($1, $2)

-- name: put_memory
select vespid_x_put_memory($1, $2, $3, $4)

-- name: sweep_turns
select * from vespid_x_sweep_turns($1)

-- name: live_turns
select * from vespid_x_live_turns($1, $2)
