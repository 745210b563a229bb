-- Sessions and their events. The functions live in migration 0005; each call is one commit.

-- name: create_session
select id, is_new from vespid_create_session($1)

-- name: read_session
select * from sessions where organization_id = $1 and id = $2

-- name: find_session
select * from sessions where organization_id = $1 and session_key = $2

-- name: list_sessions
-- Newest first; ids grow with the time they were made.
select * from sessions
where organization_id = $1 and ($2::uuid is null or id < $2)
  and ($4::text is null or position(lower($4) in lower(coalesce(title, '') || ' ' || session_key)) > 0)
order by id desc limit $3

-- name: retitle_session
update sessions set title = $3, updated_at = now() where organization_id = $1 and id = $2 returning *

-- name: list_events
-- seq is given in commit order within a session, so a page never misses what a later read would show below it. Where the
-- page ends is found event by event, so that what lies behind a full one is not even measured.
with recursive page as (
    select $2::bigint as seq, 0 as number, 0::bigint as bytes
    union all
    select e.seq, p.number + 1, p.bytes + e.bytes
    from page p
    cross join lateral (
        select next.seq, coalesce(octet_length(next.payload::text), 0) as bytes
        from session_events next
        where next.session_id = $1 and next.seq > p.seq
        order by next.seq
        limit 1
    ) e
    where p.number < $3 and (p.number = 0 or p.bytes + e.bytes <= $4)
)
select id, organization_id, session_id, seq, turn_seq, event_type, level, idempotency_key, payload, created_at
from session_events
where session_id = $1 and seq > $2 and seq <= (select max(seq) from page)
order by seq

-- name: read_standing
-- How far it goes, where it is pinned, and the turn that is with a host.
select s.event_seq, s.scope, s.pinned_executor_id, s.pinned_pool, s.routed_agent_id,
       t.user_seq, t.turn_epoch, t.state, t.executor_id, t.edge_id
from sessions s
left join session_turns t on t.session_id = s.id and t.finished_at is null and t.executor_id is not null
where s.organization_id = $1 and s.id = $2

-- name: read_sessions
select * from vespid_read_sessions($1, $2, $3, $4, $5)

-- name: send_messages
select outcome, seq, id, payload, created_at, is_next, cancelled,
       pool, requirement, only_executor_id, pinned_executor_id, pinned_pool, pin_policy
from vespid_send_messages($1) order by ord

-- name: cancel_turn
select seq, cancelled, has_next from vespid_cancel_turn($1, $2)

-- name: reset_session
select seq, cancelled, false as has_next from vespid_reset_session($1, $2, $3)
