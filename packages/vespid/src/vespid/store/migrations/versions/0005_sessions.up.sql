-- Interactive sessions. A session is a conversation pinned to a host; a turn is one message of it that wants an answer.
--
-- A turn has no living owner (decision 0013): like a run it is a row, and whoever has news of it changes it with ONE
-- statement, a call of a function below. What is in flight has a deadline (act_by) and a fence: the requestId
-- <session>:turn:<user_seq>:<turn_epoch> together with the executor that holds it.
--   vespid_*    run as the service role: they set the tenant themselves and row-level security judges.
--   vespid_x_*  cross tenants (managed executors belong to none); each compares the organization it is told with the one stored.
--   vespid_i_*  inner pieces.
-- Lock order: session, then its turns by user_seq. Functions with an array answer one row per item, `ord` from 1.

create domain vespid_turn_state as text
    check (value in ('queued', 'opening', 'running', 'cancelling', 'answered', 'failed', 'cancelled'));

create table sessions (
    id                   uuid primary key,
    organization_id      uuid not null references organizations (id) on delete cascade,
    created_by_user_id   uuid,
    session_key          text not null check (length(session_key) between 1 and 2000),
    scope                text not null check (scope in ('main', 'per-peer', 'per-channel-peer', 'per-account-channel-peer')),
    title                text check (length(title) between 1 and 200),
    status               text not null default 'active' check (status in ('active', 'archived')),
    routed_agent_id      text,
    binding_id           uuid,
    routing              jsonb not null default '{}',   -- what bindings are matched against: peer, channel, account, …
    pinned_executor_id   uuid,
    pinned_pool          vespid_pool,
    executor_selector    jsonb,                         -- as its author wrote it
    pool                 vespid_pool,                   -- null: the organization's own first, then the managed
    only_executor_id     uuid,                          -- that host and no other
    required_tags        text[] not null default '{}',
    requirement          jsonb not null,                -- vespid.domain.selector.Requirement
    engine_id            text not null,
    engine               jsonb not null,                -- {id, model?, provider?, secretId?}: a reference, never a key
    tools_allow          text[] not null default '{}',
    limits               jsonb not null default '{}',
    prompt_system        text,
    prompt_instructions  text,
    on_busy              text not null default 'queue' check (on_busy in ('queue', 'reject', 'interrupt')),
    on_host_lost         text not null default 'rerun' check (on_host_lost in ('rerun', 'fail')),
    pin_policy           text not null default 'sticky' check (pin_policy in ('sticky', 'home')),
    turn_timeout_ms      int not null check (turn_timeout_ms between 1000 and 86400000),
    generation           bigint not null default 1,     -- grows with the pin and with resets: a host's copy of another one is void
    event_seq            bigint not null default 0,
    history_from         bigint not null default 0,     -- what is not after it was forgotten by a reset
    last_turn_seq        bigint not null default 0,     -- message of the last turn that ended
    memory_version       bigint not null default 0,
    created_at           timestamptz(3) not null default now(),
    updated_at           timestamptz(3) not null default now(),
    last_activity_at     timestamptz(3) not null default now(),
    unique (organization_id, session_key),
    unique (organization_id, id)
) with (fillfactor = 70);

create table session_events (
    session_id      uuid not null,
    seq             bigint not null,
    id              uuid not null default gen_random_uuid(),
    organization_id uuid not null,
    turn_seq        bigint,                             -- message of the turn that it belongs to
    event_type      text not null,
    level           vespid_event_level not null,
    idempotency_key text,
    payload         jsonb,
    created_at      timestamptz(3) not null default clock_timestamp(),
    primary key (session_id, seq),
    foreign key (organization_id, session_id) references sessions (organization_id, id) on delete cascade
);
create unique index session_events_key on session_events (session_id, idempotency_key) where idempotency_key is not null;
create index session_events_turn on session_events (session_id, turn_seq, seq) where turn_seq is not null;

create table session_turns (
    session_id       uuid not null,
    user_seq         bigint not null,                   -- seq of the message that it answers
    organization_id  uuid not null,
    user_id          uuid,
    state            vespid_turn_state not null default 'queued',
    turn_epoch       int not null default 0,
    executor_id      uuid,                              -- who has it; null while it is to be placed, and when that one was lost
    edge_id          uuid,                              -- the process with that executor's socket
    pool             vespid_pool,
    tries            int not null default 0,
    lost_executor_id uuid,
    lost_reason      text,
    lost_at          timestamptz,
    waits_for        uuid,                              -- a busy pinned executor
    waiting_reason   text,
    wait_until       timestamptz,                       -- until when it may want a host; to be declined does not move it
    last_event_seq   bigint not null default -1,        -- the host's own numbers of its tool events: repeats are dropped
    act_by           timestamptz,                       -- when somebody acts, whoever dies; null: behind another turn
    sweep_at         timestamptz,
    error            text,
    created_at       timestamptz not null default now(),
    granted_at       timestamptz,
    finished_at      timestamptz,
    primary key (session_id, user_seq),
    foreign key (organization_id, session_id) references sessions (organization_id, id) on delete cascade
) with (fillfactor = 70);
create index session_turns_live on session_turns (session_id, user_seq) where finished_at is null;
create index session_turns_sweep on session_turns (sweep_at) where sweep_at is not null;
create index session_turns_host on session_turns (executor_id) where finished_at is null and executor_id is not null;
create index session_turns_lost on session_turns (lost_executor_id) where finished_at is null and lost_executor_id is not null;
create index session_turns_waiting on session_turns (waits_for) where finished_at is null and waits_for is not null;

-- Markdown that agents remember, by session key: it outlives hosts, and follows a failover.
create table memory_docs (
    id              uuid primary key default gen_random_uuid(),
    organization_id uuid not null references organizations (id) on delete cascade,
    session_key     text not null,
    path            text not null check (length(path) between 1 and 512),
    file_key        text not null,                      -- equal for names of one file where case or composition does not matter
    version         bigint not null,                    -- sessions.memory_version when it changed
    sha256          text not null,
    content         text,                               -- null: it was deleted
    created_at      timestamptz(3) not null default now(),
    updated_at      timestamptz(3) not null default now(),
    unique (organization_id, session_key, path),
    unique (organization_id, id)
);
-- Two names of one file: there are hosts that could not hold both.
create unique index memory_docs_file on memory_docs (organization_id, session_key, file_key) where content is not null;

create table agent_bindings (
    id                 uuid primary key,
    organization_id    uuid not null references organizations (id) on delete cascade,
    agent_id           text not null check (length(agent_id) between 1 and 120),
    priority           int not null default 0,
    dimension          text not null check (dimension in ('peer', 'parent_peer', 'org_roles', 'organization', 'team', 'account', 'channel', 'default')),
    match              jsonb not null default '{}',
    metadata           jsonb not null default '{}',
    created_by_user_id uuid,
    created_at         timestamptz(3) not null default now(),
    updated_at         timestamptz(3) not null default now(),
    unique (organization_id, id)
);

select vespid_tenant_table('sessions');
select vespid_tenant_table('session_events');
select vespid_tenant_table('session_turns');
select vespid_tenant_table('memory_docs');
select vespid_tenant_table('agent_bindings');
grant select, insert, update, delete on sessions, session_events, session_turns, memory_docs to vespid_cross;

-- ---------------------------------------------------------------------------------------------------------------
-- Inner pieces. The caller has locked the session's row.
-- ---------------------------------------------------------------------------------------------------------------

-- Appends events behind `base`, the event_seq before them; the caller writes the new event_seq.
-- events: [{"t": type, "l": level?, "p": payload?}]; all belong to the turn of message `turn` (null: to none).
create function vespid_i_append_session_events(org uuid, session uuid, turn bigint, base bigint, events jsonb) returns void
language plpgsql as $$
begin
    insert into session_events (session_id, seq, organization_id, turn_seq, event_type, level, payload)
    select session, base + e.ord, org, turn, e.t, coalesce(e.l, 'info'), nullif(e.p, 'null'::jsonb)
    from rows from (jsonb_to_recordset(events) as (t text, l text, p jsonb)) with ordinality as e (t, l, p, ord);
end $$;

-- Appends and writes the session's new event_seq, which it answers.
create function vespid_i_tell_session(org uuid, session uuid, turn bigint, events jsonb) returns bigint
language plpgsql as $$
declare
    reached bigint;
    count int := jsonb_array_length(events);
begin
    update sessions s set event_seq = s.event_seq + count, last_activity_at = now() where s.id = session returning s.event_seq into reached;
    perform vespid_i_append_session_events(org, session, turn, reached - count, events);
    return reached;
end $$;

create function vespid_i_turn_request(session uuid, seq bigint, epoch int) returns text
language sql immutable strict parallel safe as $$ select session || ':turn:' || seq || ':' || epoch $$;

create function vespid_i_to_be_placed(t session_turns) returns boolean
language sql immutable parallel safe as $$ select t.finished_at is null and (t.state = 'queued' or (t.state = 'opening' and t.executor_id is null)) $$;

-- Ends a live turn with the events that answer its message, and lets the next one be looked at. → the new event_seq
create function vespid_i_end_turn(t session_turns, final_state text, code text, events jsonb) returns bigint
language plpgsql as $$
declare
    reached bigint;
    count int := jsonb_array_length(events);
begin
    update session_turns set state = final_state, error = code, finished_at = clock_timestamp(), sweep_at = null, waits_for = null
    where session_id = t.session_id and user_seq = t.user_seq;
    update sessions s set last_turn_seq = greatest(s.last_turn_seq, t.user_seq), event_seq = s.event_seq + count, last_activity_at = now()
    where s.id = t.session_id returning s.event_seq into reached;
    perform vespid_i_append_session_events(t.organization_id, t.session_id, t.user_seq, reached - count, events);
    update session_turns n set sweep_at = now() + interval '5 s'
    where n.session_id = t.session_id and n.sweep_at is null
      and n.user_seq = (select min(m.user_seq) from session_turns m where m.session_id = t.session_id and m.finished_at is null);
    return reached;
end $$;

create function vespid_i_error_event(t session_turns, code text, message text, details jsonb default null) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_array(jsonb_build_object('t', 'error', 'l', 'error', 'p', jsonb_strip_nulls(jsonb_build_object(
        'code', code, 'message', message, 'details', details, 'userEventSeq', t.user_seq))))
$$;

-- Asks for the end of a live turn. → the new event_seq, null where nothing was written as it still runs on a host
create function vespid_i_cancel_turn(t session_turns) returns bigint
language plpgsql as $$
begin
    if vespid_i_to_be_placed(t) then
        return vespid_i_end_turn(t, 'cancelled', 'TURN_CANCELLED', vespid_i_error_event(t, 'TURN_CANCELLED', 'The turn was cancelled.'));
    end if;
    update session_turns set state = 'cancelling', act_by = now() + interval '5 s', sweep_at = now() + interval '5 s'
    where session_id = t.session_id and user_seq = t.user_seq and state <> 'cancelling';
    return null;
end $$;

-- What becomes of a turn whose host is lost. reason: closed | silent | revoked | journal | omitted | unopened | declined
-- (the last uses no try) → place | failed | cancelled
create function vespid_i_lose_turn(s sessions, t session_turns, reason text) returns text
language plpgsql as $$
declare
    until timestamptz := now() + s.turn_timeout_ms * interval '1 ms';
begin
    if t.state = 'cancelling' then
        perform vespid_i_end_turn(t, 'cancelled', 'TURN_CANCELLED', vespid_i_error_event(t, 'TURN_CANCELLED', 'The turn was cancelled.'));
        return 'cancelled';
    end if;
    if reason <> 'declined' and (s.on_host_lost = 'fail' or t.tries >= 3) then
        perform vespid_i_end_turn(t, 'failed', 'AGENT_DISCONNECTED', vespid_i_error_event(t, 'AGENT_DISCONNECTED',
            'The host of this turn was lost.', case when t.tries >= 3 then '{"quarantined": true}'::jsonb end));
        return 'failed';
    end if;
    if reason = 'declined' then
        until := coalesce(t.wait_until, until);
    end if;
    update session_turns
    set state = 'opening', lost_executor_id = executor_id, lost_reason = reason, lost_at = now(), executor_id = null, edge_id = null,
        tries = tries - case when reason = 'declined' then 1 else 0 end,
        waiting_reason = case when reason = 'declined' then waiting_reason end,
        wait_until = until, act_by = until, sweep_at = least(until, now() + interval '5 s')
    where session_id = t.session_id and user_seq = t.user_seq;
    return 'place';
end $$;

-- Puts changed documents down under one new version. docs: [{path, fileKey?, sha256, content|null}] → the version, unchanged if none differs
-- Raises check_violation beyond what a workspace may hold (vespid_runtime.memory.workspace), unique_violation for one file twice.
create function vespid_i_put_memory(s sessions, docs jsonb) returns bigint
language plpgsql as $$
declare
    next_version bigint := s.memory_version + 1;
begin
    with given as (  -- of two that say the same path, the later
        select distinct on (d.path) d.path, coalesce(d.key, lower(d.path)) as key, d.sha256, d.content
        from rows from (jsonb_to_recordset(docs) as (path text, "fileKey" text, sha256 text, content text))
             with ordinality as d (path, key, sha256, content, ord)
        order by d.path, d.ord desc
    ), changed as (
        insert into memory_docs (organization_id, session_key, path, file_key, version, sha256, content)
        select s.organization_id, s.session_key, g.path, g.key, next_version, g.sha256, g.content from given g
        order by g.content is not null, g.path  -- first what is gone: a document may be told under another spelling of its name
        on conflict (organization_id, session_key, path) do update
        set version = excluded.version, sha256 = excluded.sha256, content = excluded.content, updated_at = now()
        where (memory_docs.sha256, memory_docs.content is null) is distinct from (excluded.sha256, excluded.content is null)
        returning 1
    )
    select case when count(*) > 0 then next_version else s.memory_version end into next_version from changed;
    if next_version > s.memory_version and exists (
        select from memory_docs m where m.organization_id = s.organization_id and m.session_key = s.session_key and m.content is not null
        having count(*) > 500 or sum(octet_length(m.content)) > 8388608) then
        raise exception using errcode = 'check_violation', message = 'a session remembers at most 500 documents and 8 MiB';
    end if;
    update sessions set memory_version = next_version where id = s.id and memory_version < next_version;
    return next_version;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- What people do (tenant functions)
-- ---------------------------------------------------------------------------------------------------------------

-- A session, or the one that has its key. item: {org, id, …NewSession of vespid.store.sessions}; the event with it.
create function vespid_create_session(item jsonb) returns table (id uuid, is_new boolean)
language plpgsql as $$
declare
    org uuid := (item->>'org')::uuid;
begin
    perform set_config('app.current_org_id', org::text, true);
    insert into sessions (id, organization_id, created_by_user_id, session_key, scope, title, routed_agent_id, binding_id, routing,
                          executor_selector, pool, only_executor_id, required_tags, requirement, engine_id, engine, tools_allow, limits,
                          prompt_system, prompt_instructions, on_busy, on_host_lost, pin_policy, turn_timeout_ms, event_seq)
    values ((item->>'id')::uuid, org, (item->>'userId')::uuid, item->>'sessionKey', item->>'scope', item->>'title',
            item->>'routedAgentId', (item->>'bindingId')::uuid, coalesce(item->'routing', '{}'),
            nullif(item->'executorSelector', 'null'::jsonb), item->>'pool', (item->>'onlyExecutorId')::uuid, vespid_i_tags(item->'requiredTags'),
            item->'requirement', item->'engine'->>'id', item->'engine', vespid_i_tags(item->'toolsAllow'), coalesce(item->'limits', '{}'),
            item->>'promptSystem', item->>'promptInstructions', coalesce(item->>'onBusy', 'queue'), coalesce(item->>'onHostLost', 'rerun'),
            coalesce(item->>'pinPolicy', 'sticky'), (item->>'turnTimeoutMs')::int, 1)
    on conflict (organization_id, session_key) do nothing
    returning sessions.id into id;
    is_new := found;
    if is_new then
        perform vespid_i_append_session_events(org, id, null, 0, jsonb_build_array(jsonb_build_object('t', 'session_created', 'p',
            jsonb_build_object('sessionKey', item->'sessionKey', 'scope', item->'scope', 'engineId', item->'engine'->'id'))));
    else
        select s.id into id from sessions s where s.organization_id = org and s.session_key = item->>'sessionKey';
    end if;
    return next;
end $$;

-- A message. It is durable when this is committed, and answered exactly once by whoever gets to it.
-- items: [{org, session, user, payload: {message, attachments?}, key?, routed?: {agentId|null, bindingId|null}}]
--   → accepted | repeated (what stands under that key) | busy | not_found
-- cancelled: requests that hosts have to stop, [{requestId, executorId, pool}]
-- With is_next what its turn wants of a host, as vespid_look_at_session would say it: a hint for whoever places it now.
create function vespid_send_messages(items jsonb[])
returns table (ord int, outcome text, seq bigint, id uuid, payload jsonb, created_at timestamptz, is_next boolean, cancelled jsonb,
               pool text, requirement jsonb, only_executor_id uuid, pinned_executor_id uuid, pinned_pool text, pin_policy text)
language plpgsql as $$
declare
    item jsonb;
    org uuid;
    held sessions;
    open_turn session_turns;
    events jsonb;
    is_routed boolean;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i; item := items[ord]; org := (item->>'org')::uuid;
        outcome := null; seq := null; id := null; payload := null; created_at := null; is_next := false; cancelled := '[]';
        pool := null; requirement := null; only_executor_id := null; pinned_executor_id := null; pinned_pool := null; pin_policy := null;
        perform set_config('app.current_org_id', org::text, true);
        select s.* into held from sessions s where s.id = (item->>'session')::uuid and s.organization_id = org and s.status = 'active'
        for no key update;
        if not found then
            outcome := 'not_found';
            return next;
            continue;
        end if;
        if item->>'key' is not null then
            select e.seq, e.id, e.payload, e.created_at into seq, id, payload, created_at
            from session_events e where e.session_id = held.id and e.idempotency_key = item->>'key';
            if found then
                outcome := 'repeated';
                return next;
                continue;
            end if;
        end if;
        select t.* into open_turn from session_turns t where t.session_id = held.id and t.finished_at is null order by t.user_seq limit 1
        for no key update;
        is_next := not found;
        if not is_next and held.on_busy = 'reject' then
            outcome := 'busy';
            return next;
            continue;
        end if;
        if not is_next and held.on_busy = 'interrupt' then
            if not vespid_i_to_be_placed(open_turn) and open_turn.state <> 'cancelling' then
                cancelled := jsonb_build_array(jsonb_build_object('requestId', vespid_i_turn_request(held.id, open_turn.user_seq, open_turn.turn_epoch),
                                                                  'executorId', open_turn.executor_id, 'pool', open_turn.pool));
            end if;
            perform vespid_i_cancel_turn(open_turn);
            is_next := not exists (select from session_turns t where t.session_id = held.id and t.finished_at is null);
        end if;
        events := '[]';
        is_routed := item->'routed' is not null and (item->'routed'->>'agentId') is distinct from held.routed_agent_id;
        if is_routed then
            events := jsonb_build_array(jsonb_build_object('t', 'agent_handoff', 'p',
                jsonb_build_object('from', held.routed_agent_id, 'to', item->'routed'->'agentId')));
            update sessions s set routed_agent_id = item->'routed'->>'agentId', binding_id = (item->'routed'->>'bindingId')::uuid,
                   generation = s.generation + 1 where s.id = held.id;
            perform vespid_i_tell_session(org, held.id, null, events);
        end if;
        update sessions s set event_seq = s.event_seq + 1, last_activity_at = now() where s.id = held.id returning s.event_seq into seq;
        payload := item->'payload';
        insert into session_events (session_id, seq, organization_id, turn_seq, event_type, level, idempotency_key, payload)
        values (held.id, seq, org, seq, 'user_message', 'info', item->>'key', payload)
        returning session_events.id, session_events.created_at into id, created_at;
        insert into session_turns (session_id, user_seq, organization_id, user_id, sweep_at)
        values (held.id, seq, org, (item->>'user')::uuid, case when is_next then now() + interval '5 s' end);
        outcome := 'accepted';
        if is_next then
            pool := held.pool; requirement := held.requirement; only_executor_id := held.only_executor_id;
            pinned_executor_id := held.pinned_executor_id; pinned_pool := held.pinned_pool; pin_policy := held.pin_policy;
        end if;
        return next;
    end loop;
end $$;

-- Stops what runs; where nothing runs yet, the message that waits. → event_seq now, what hosts have to stop, whether another waits
create function vespid_cancel_turn(org uuid, session uuid) returns table (seq bigint, cancelled jsonb, has_next boolean)
language plpgsql as $$
declare
    held sessions;
    open_turn session_turns;
begin
    perform set_config('app.current_org_id', org::text, true);
    select s.* into held from sessions s where s.id = session and s.organization_id = org for no key update;
    if not found then
        return;
    end if;
    select t.* into open_turn from session_turns t where t.session_id = session and t.finished_at is null order by t.user_seq limit 1 for no key update;
    cancelled := '[]';
    if found then
        if not vespid_i_to_be_placed(open_turn) then
            cancelled := jsonb_build_array(jsonb_build_object('requestId', vespid_i_turn_request(session, open_turn.user_seq, open_turn.turn_epoch),
                                                              'executorId', open_turn.executor_id, 'pool', open_turn.pool));
        end if;
        perform vespid_i_cancel_turn(open_turn);
    end if;
    select s.event_seq into seq from sessions s where s.id = session;
    select t.* into open_turn from session_turns t where t.session_id = session and t.finished_at is null order by t.user_seq limit 1;
    has_next := found and vespid_i_to_be_placed(open_turn);
    return next;
end $$;

-- The agent begins anew: what runs or waits is cancelled; `clear` forgets what was said before. Memory stays.
create function vespid_reset_session(org uuid, session uuid, clear boolean) returns table (seq bigint, cancelled jsonb)
language plpgsql as $$
declare
    held sessions;
    live session_turns;
    lives session_turns[];
begin
    perform set_config('app.current_org_id', org::text, true);
    select s.* into held from sessions s where s.id = session and s.organization_id = org for no key update;
    if not found then
        return;
    end if;
    cancelled := '[]';
    -- All of them before the first is ended: a cursor that locks rows passes over those that this transaction has changed since it began.
    lives := array(select t from session_turns t where t.session_id = session and t.finished_at is null order by t.user_seq for no key update);
    foreach live in array lives loop
        if not vespid_i_to_be_placed(live) then
            cancelled := cancelled || jsonb_build_array(jsonb_build_object(
                'requestId', vespid_i_turn_request(session, live.user_seq, live.turn_epoch), 'executorId', live.executor_id, 'pool', live.pool));
        end if;
        perform vespid_i_cancel_turn(live);
    end loop;
    seq := vespid_i_tell_session(org, session, null, jsonb_build_array(jsonb_build_object('t', 'system', 'p',
        jsonb_build_object('action', 'session_reset', 'mode', case when clear then 'clear_history' else 'keep_history' end))));
    update sessions s set generation = s.generation + 1, updated_at = now(),
           history_from = case when clear then s.event_seq else s.history_from end where s.id = session;
    return next;
end $$;

-- Up to where a page of events behind `after` goes: `most` of them, and no more than so many bytes of payload, but one at least.
create function vespid_i_page_end(session uuid, after bigint, most int, most_bytes bigint) returns bigint
language plpgsql stable as $$
declare
    reached bigint := after;
    left_bytes bigint := most_bytes;
    event record;
begin
    for event in
        select h.seq, coalesce(octet_length(h.payload::text), 0) as bytes from session_events h
        where h.session_id = session and h.seq > after order by h.seq limit most
    loop
        left_bytes := left_bytes - event.bytes;
        exit when left_bytes < 0 and reached > after;
        reached := event.seq;
    end loop;
    return reached;
end $$;

-- How sessions stand and their next events, for those who watch: of each asked for `most` events behind `afters`, all from one
-- snapshot. A session without such events has one row whose seq is null; one that the organization does not have has none.
create function vespid_read_sessions(orgs uuid[], sessions uuid[], afters bigint[], most int, most_bytes bigint)
returns table (ord int, event_seq bigint, scope text, pinned_executor_id uuid, pinned_pool text, routed_agent_id text,
               user_seq bigint, turn_epoch int, state text, executor_id uuid, edge_id uuid,
               seq bigint, id uuid, turn_seq bigint, event_type text, level text, idempotency_key text, payload jsonb, created_at timestamptz)
language plpgsql stable as $$
begin
    for i in 1 .. coalesce(array_length(orgs, 1), 0) loop
        perform set_config('app.current_org_id', orgs[i]::text, true);
        return query
        select i, s.event_seq, s.scope, s.pinned_executor_id, s.pinned_pool::text, s.routed_agent_id,
               t.user_seq, t.turn_epoch, t.state::text, t.executor_id, t.edge_id,
               e.seq, e.id, e.turn_seq, e.event_type, e.level::text, e.idempotency_key, e.payload, e.created_at::timestamptz
        from public.sessions s
        left join session_turns t on t.session_id = s.id and t.finished_at is null and t.executor_id is not null
        left join session_events e
            on e.session_id = s.id and e.seq > afters[i] and e.seq <= vespid_i_page_end(s.id, afters[i], most, most_bytes)
        where s.organization_id = orgs[i] and s.id = sessions[i]
        order by e.seq;
    end loop;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Placing
-- ---------------------------------------------------------------------------------------------------------------

-- The turn of this session that wants a host now, and what it wants; no row where none does.
create function vespid_look_at_session(org uuid, session uuid)
returns table (user_seq bigint, turn_epoch int, tries int, state text, pool text, requirement jsonb, only_executor_id uuid,
               pinned_executor_id uuid, pinned_pool text, pin_policy text, lost_executor_id uuid, lost_reason text, lost_ms bigint,
               waits_for uuid, waiting_reason text, created_at timestamptz, priority int)
language plpgsql stable as $$
begin
    perform set_config('app.current_org_id', org::text, true);
    return query
    select t.user_seq, t.turn_epoch, t.tries, t.state::text, s.pool::text, s.requirement, s.only_executor_id, s.pinned_executor_id, s.pinned_pool::text,
           s.pin_policy, t.lost_executor_id, t.lost_reason, (extract(epoch from now() - t.lost_at) * 1000)::bigint, t.waits_for, t.waiting_reason,
           t.created_at, 0
    from sessions s
    join lateral (select h.* from session_turns h where h.session_id = s.id and h.finished_at is null order by h.user_seq limit 1) t on true
    where s.id = session and s.organization_id = org and (t.state = 'queued' or (t.state = 'opening' and t.executor_id is null));
end $$;

-- It waits for a busy host, for as long as a turn may take; said once. → event_seq where something was said
create function vespid_note_turn_waiting(org uuid, session uuid, seq bigint, epoch int, reason text, busy uuid) returns bigint
language plpgsql as $$
declare
    held sessions;
    waiting session_turns;
begin
    perform set_config('app.current_org_id', org::text, true);
    select s.* into held from sessions s where s.id = session and s.organization_id = org for no key update;
    select t.* into waiting from session_turns t where t.session_id = held.id and t.finished_at is null order by t.user_seq limit 1 for no key update;
    if not found or waiting.user_seq <> seq or waiting.turn_epoch <> epoch or not vespid_i_to_be_placed(waiting) then
        return null;
    end if;
    waiting.wait_until := coalesce(waiting.wait_until, now() + held.turn_timeout_ms * interval '1 ms');
    update session_turns t
    set waits_for = busy, waiting_reason = reason, wait_until = waiting.wait_until, act_by = waiting.wait_until,
        sweep_at = least(waiting.wait_until, now() + interval '5 s')
    where t.session_id = session and t.user_seq = seq;
    if waiting.waiting_reason is not null then
        return null;
    end if;
    return vespid_i_tell_session(org, session, seq, jsonb_build_array(jsonb_build_object('t', 'system', 'p',
        jsonb_strip_nulls(jsonb_build_object('action', 'waiting', 'reason', reason, 'executorId', busy, 'userEventSeq', seq)))));
end $$;

-- Nobody can have it. → event_seq; null where it does not want a host any more
create function vespid_fail_unplaced_turn(org uuid, session uuid, seq bigint, epoch int, code text, message text, details jsonb) returns bigint
language plpgsql as $$
declare
    held sessions;
    waiting session_turns;
begin
    perform set_config('app.current_org_id', org::text, true);
    select s.* into held from sessions s where s.id = session and s.organization_id = org for no key update;
    select t.* into waiting from session_turns t where t.session_id = held.id and t.finished_at is null order by t.user_seq limit 1 for no key update;
    if not found or waiting.user_seq <> seq or waiting.turn_epoch <> epoch or not vespid_i_to_be_placed(waiting) then
        return null;
    end if;
    return vespid_i_end_turn(waiting, 'failed', code, vespid_i_error_event(waiting, code, message, details));
end $$;

-- Leases turns to hosts, each in the statement that every guard is in.
-- items: [{org, session, seq, epoch, executor, connectionEpoch, edge, have?: {generation, historySeq, memoryVersion}}]; `epoch` is the
-- new one.  → leased (with all that the host has to be told) | refused (not on this executor) | gone (it does not want a host any more)
-- history: [{seq, role, content}], seq that of the turn's message, null where the host's copy is good; memory: [{path, version, sha256, content}], likewise.
create function vespid_x_lease_turns(items jsonb[])
returns table (ord int, outcome text, session jsonb, user_id uuid, payload jsonb, prior jsonb, history jsonb, memory jsonb,
               is_pin_moved boolean, remaining_ms bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    host record;
    held sessions;
    wanted session_turns;
    event jsonb;
    have_seq bigint;
    have_memory bigint;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i; item := items[ord]; have_seq := null; have_memory := null;
        session := null; user_id := null; payload := null; prior := null; history := null; memory := null; is_pin_moved := false; remaining_ms := null;
        select s.* into held from sessions s where s.id = (item->>'session')::uuid and s.organization_id = (item->>'org')::uuid for no key update;
        if not found then
            outcome := 'gone';
            return next;
            continue;
        end if;
        select t.* into wanted from session_turns t where t.session_id = held.id and t.finished_at is null order by t.user_seq limit 1
        for no key update;
        if not found or wanted.user_seq <> (item->>'seq')::bigint or wanted.turn_epoch <> (item->>'epoch')::int - 1
           or not vespid_i_to_be_placed(wanted) then
            outcome := 'gone';
            return next;
            continue;
        end if;
        select x.id, x.organization_id into host from executors x
        where x.id = (item->>'executor')::uuid and x.connection_epoch = (item->>'connectionEpoch')::bigint and x.edge_id = (item->>'edge')::uuid
          and x.lost_at is null and x.revoked_at is null and not x.cordoned and not x.draining and x.enabled
          and (x.organization_id = held.organization_id or x.organization_id is null)
          and (held.pool is distinct from 'managed' or x.organization_id is null)
          and (held.only_executor_id is null or held.only_executor_id = x.id)
          and x.tags @> held.required_tags
          and (x.kinds is null or 'agent.run' = any (x.kinds)) and (x.engines is null or held.engine_id = any (x.engines));
        if not found then
            outcome := 'refused';
            return next;
            continue;
        end if;
        is_pin_moved := held.pinned_executor_id is distinct from host.id;
        event := null;
        if is_pin_moved and held.pinned_executor_id is not null then
            event := jsonb_build_object('t', 'system', 'l', 'warn', 'p', jsonb_build_object('action', 'session_executor_failover',
                'from', jsonb_build_object('executorId', held.pinned_executor_id, 'pool', held.pinned_pool),
                'to', jsonb_build_object('executorId', host.id, 'pool', case when host.organization_id is null then 'managed' else 'byon' end),
                'userEventSeq', wanted.user_seq));
        elsif wanted.tries > 0 then
            event := jsonb_build_object('t', 'system', 'l', 'warn', 'p', jsonb_build_object('action', 'turn_restarted', 'userEventSeq', wanted.user_seq));
        end if;
        if not is_pin_moved and (item->'have'->>'generation')::bigint = held.generation
           and (item->'have'->>'historySeq')::bigint <= held.last_turn_seq then
            have_seq := (item->'have'->>'historySeq')::bigint;
            have_memory := case when (item->'have'->>'memoryVersion')::bigint <= held.memory_version then (item->'have'->>'memoryVersion')::bigint end;
        end if;
        -- Who is given everything anew is given it as a new generation: what it had before is void, down to the last file.
        update sessions s
        set pinned_executor_id = host.id, pinned_pool = case when host.organization_id is null then 'managed' else 'byon' end,
            generation = s.generation + case when have_memory is null then 1 else 0 end
        where s.id = held.id returning s.* into held;
        if event is not null then
            held.event_seq := vespid_i_tell_session(held.organization_id, held.id, wanted.user_seq, jsonb_build_array(event));
        end if;
        update session_turns t
        set state = 'opening', turn_epoch = t.turn_epoch + 1, executor_id = host.id, edge_id = (item->>'edge')::uuid, pool = held.pinned_pool,
            tries = t.tries + 1, waits_for = null, last_event_seq = -1, granted_at = clock_timestamp(),
            act_by = now() + (held.turn_timeout_ms + 5000) * interval '1 ms',
            sweep_at = now() + least(held.turn_timeout_ms + 5000, 10000) * interval '1 ms'
        where t.session_id = held.id and t.user_seq = wanted.user_seq;
        have_seq := case when have_memory is not null then have_seq end;
        if have_seq is distinct from held.last_turn_seq or have_memory is distinct from held.memory_version then
            -- By turns, not by seq: messages that came while a turn ran stand before its answer in the events. So the host, which goes by
            -- the order of seq, is told an answer under the seq of its message.
            select coalesce(jsonb_agg(jsonb_build_object('seq', h.turn_seq, 'role', h.role, 'content', h.content) order by h.turn_seq, h.seq), '[]')
            into history from (
                select e.seq, e.turn_seq, case when e.event_type = 'user_message' then 'user' else 'assistant' end as role, e.payload->>'message' as content
                from session_events e
                where e.session_id = held.id and e.turn_seq < wanted.user_seq and e.turn_seq > coalesce(have_seq, 0) and e.turn_seq > held.history_from
                  and e.event_type in ('user_message', 'agent_final')
                order by e.turn_seq desc, e.seq desc limit 5000
            ) h;
            select coalesce(jsonb_agg(jsonb_build_object('path', m.path, 'version', m.version, 'sha256', m.sha256, 'content', m.content) order by m.path), '[]')
            into memory from memory_docs m
            where m.organization_id = held.organization_id and m.session_key = held.session_key
              and case when have_memory is null then m.content is not null else m.version > have_memory end;
        end if;
        if wanted.tries > 0 then
            select jsonb_agg(jsonb_build_object('kind', e.event_type, 'level', e.level, 'message', e.payload->'message', 'payload', e.payload->'data')
                             order by e.seq) into prior from session_events e
            where e.session_id = held.id and e.turn_seq = wanted.user_seq and e.event_type in ('tool_call', 'tool_result');
        end if;
        select e.payload into payload from session_events e where e.session_id = held.id and e.seq = wanted.user_seq;
        user_id := wanted.user_id; remaining_ms := held.turn_timeout_ms;
        session := to_jsonb(held) || jsonb_build_object('have_seq', have_seq);
        outcome := 'leased';
        return next;
    end loop;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- What hosts say
-- ---------------------------------------------------------------------------------------------------------------

-- The events of these that the host has not sent before under this lease: "s" is its own number of each.
create function vespid_i_unheard(t session_turns, events jsonb) returns jsonb
language sql immutable parallel safe as $$
    select coalesce(jsonb_agg(e.event order by e.ord), '[]') from jsonb_array_elements(coalesce(events, '[]')) with ordinality as e (event, ord)
    where e.event->'s' is null or (e.event->>'s')::bigint > t.last_event_seq
$$;

-- Tool calls and their results. items: [{org, session, seq, epoch, executor, events}] → appended (with event_seq) | fenced
create function vespid_x_append_turn_events(items jsonb[]) returns table (ord int, outcome text, event_seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    held session_turns;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i; item := items[ord]; outcome := 'fenced'; event_seq := null;
        perform 1 from sessions s where s.id = (item->>'session')::uuid and s.organization_id = (item->>'org')::uuid for no key update;
        select t.* into held from session_turns t
        where t.session_id = (item->>'session')::uuid and t.user_seq = (item->>'seq')::bigint and t.organization_id = (item->>'org')::uuid
          and t.turn_epoch = (item->>'epoch')::int and t.executor_id = (item->>'executor')::uuid and t.state in ('opening', 'running')
          and exists (select from executors x where x.id = t.executor_id and x.revoked_at is null and x.enabled)
        for no key update;
        if found then
            update session_turns t
            set state = 'running',
                last_event_seq = greatest(t.last_event_seq, (select max((e->>'s')::bigint) from jsonb_array_elements(item->'events') e))
            where t.session_id = held.session_id and t.user_seq = held.user_seq;
            event_seq := vespid_i_tell_session(held.organization_id, held.session_id, held.user_seq, vespid_i_unheard(held, item->'events'));
            outcome := 'appended';
        end if;
        return next;
    end loop;
end $$;

-- Ends of turns. items: [{org, session, seq, epoch, executor, connectionEpoch, status: answered | failed, tail?: events before the end,
--   answer?: payload of agent_final, code?, message?, memory?: [{path, sha256, content|null}]}]
--   → applied | cancelled (it was being cancelled: the answer is dropped) | duplicate | fenced | unknown: acknowledged after any of these
--     | stale (the connection is not the executor's newest, or it is revoked: no answer, the socket is to be closed)
-- has_next: another message waits. is_ours: this end was made of what the sender sent, so that its copy of the history is good.
create function vespid_x_finish_turns(items jsonb[])
returns table (ord int, outcome text, event_seq bigint, created_at timestamptz, has_next boolean, is_ours boolean, memory_version bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    host record;
    held sessions;
    ended session_turns;
    events jsonb;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i; item := items[ord]; event_seq := null; created_at := null; has_next := false; is_ours := false; memory_version := null;
        select x.id, x.organization_id into host from executors x
        where x.id = (item->>'executor')::uuid and x.connection_epoch = (item->>'connectionEpoch')::bigint and x.revoked_at is null and x.enabled;
        if not found then
            outcome := 'stale';
            return next;
            continue;
        end if;
        -- A session of another organization is as unknown as one that never was.
        select s.* into held from sessions s where s.id = (item->>'session')::uuid
          and s.organization_id = coalesce(host.organization_id, (item->>'org')::uuid) for no key update;
        select t.* into ended from session_turns t
        where t.session_id = held.id and t.user_seq = (item->>'seq')::bigint for no key update;
        if not found then
            outcome := 'unknown';
            return next;
            continue;
        end if;
        is_ours := coalesce(ended.turn_epoch = (item->>'epoch')::int and coalesce(ended.executor_id, ended.lost_executor_id) = host.id, false);
        if not is_ours then
            outcome := 'fenced';
        elsif ended.finished_at is not null then
            outcome := 'duplicate'; is_ours := ended.state = 'answered';
        elsif ended.state = 'cancelling' then
            event_seq := vespid_i_end_turn(ended, 'cancelled', 'TURN_CANCELLED', vespid_i_error_event(ended, 'TURN_CANCELLED', 'The turn was cancelled.'));
            outcome := 'cancelled'; is_ours := false;
        else
            -- Also where it had been given up for lost and nobody else was granted it: what was done need not be done again.
            events := vespid_i_unheard(ended, item->'tail') || case when item->>'status' = 'answered'
                then jsonb_build_array(jsonb_build_object('t', 'agent_final', 'p', item->'answer'))
                else vespid_i_error_event(ended, item->>'code', item->>'message') end;
            if item->>'status' = 'answered' and jsonb_array_length(coalesce(item->'memory', '[]')) > 0 then
                memory_version := vespid_i_put_memory(held, item->'memory');
            end if;
            event_seq := vespid_i_end_turn(ended, item->>'status', item->>'code', events);
            outcome := 'applied'; is_ours := item->>'status' = 'answered';
        end if;
        if event_seq is not null then
            select e.created_at into created_at from session_events e where e.session_id = held.id and e.seq = event_seq;
            has_next := exists (select from session_turns t where t.session_id = held.id and t.finished_at is null);
        end if;
        return next;
    end loop;
end $$;

-- Turns that a host is given up for. items: [{org, session, seq, epoch, executor, reason, connectionEpoch?}]; with a connectionEpoch only
-- while no newer connection of that executor stands. → place | failed | cancelled | gone
create function vespid_x_lose_turns(items jsonb[]) returns table (ord int, outcome text, event_seq bigint, has_next boolean)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    held sessions;
    lost session_turns;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i; item := items[ord]; outcome := 'gone'; event_seq := null; has_next := false;
        select s.* into held from sessions s where s.id = (item->>'session')::uuid and s.organization_id = (item->>'org')::uuid for no key update;
        select t.* into lost from session_turns t
        where t.session_id = held.id and t.user_seq = (item->>'seq')::bigint and t.turn_epoch = (item->>'epoch')::int
          and t.executor_id = (item->>'executor')::uuid and t.finished_at is null
          and (item->>'connectionEpoch' is null or exists (
              select from executors x where x.id = t.executor_id and x.connection_epoch = (item->>'connectionEpoch')::bigint))
        for no key update;
        if found then
            outcome := vespid_i_lose_turn(held, lost, item->>'reason');
            select s.event_seq into event_seq from sessions s where s.id = held.id;
            has_next := exists (select from session_turns t where t.session_id = held.id and t.finished_at is null);
        end if;
        return next;
    end loop;
end $$;

-- Turns that are with an executor, or wait for it while it is busy (`is_held` false).
create function vespid_x_turns_of_executor(executor uuid)
returns table (session_id uuid, organization_id uuid, user_seq bigint, turn_epoch int, pool text, state text, is_held boolean)
language sql stable security definer set search_path = pg_catalog, public as $$
    select t.session_id, t.organization_id, t.user_seq, t.turn_epoch, t.pool::text, t.state::text, true
    from session_turns t where t.executor_id = executor and t.finished_at is null
    union all
    select t.session_id, t.organization_id, t.user_seq, t.turn_epoch, t.pool::text, t.state::text, false
    from session_turns t where t.waits_for = executor and t.finished_at is null
$$;

-- The hello of a connection against the turns we hold for that executor. said: {connectionEpoch, edge, running: [requestId…],
-- unacked: [requestId…], isBase, sameJournal}. One row per turn of ours and per listed one that is not:
--   continues (it runs there; its text begins anew) | waits (its end is announced) | cancelling (tell it again)
--   | place, failed, cancelled (lost) | foreign (tell it to stop)
create function vespid_x_attach_turns(executor uuid, said jsonb)
returns table (request_id text, action text, session_id uuid, organization_id uuid, user_seq bigint, turn_epoch int, pool text, event_seq bigint,
               remaining_ms bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    candidate record;
    held sessions;
    turn session_turns;
begin
    -- Alone: a lease to the connection before this one, which is being committed right now, is seen below; a later one is refused.
    perform pg_advisory_xact_lock(vespid_i_revoke_lock(executor));
    perform 1 from executors x where x.id = executor and x.connection_epoch = (said->>'connectionEpoch')::bigint and x.revoked_at is null and x.enabled;
    if not found then
        return;
    end if;
    for candidate in
        select t.session_id, t.user_seq from session_turns t where t.executor_id = executor and t.finished_at is null
        union select t.session_id, t.user_seq from session_turns t
        where t.lost_executor_id = executor and t.executor_id is null and t.finished_at is null and t.state = 'opening'
        order by 1, 2
    loop
        select s.* into held from sessions s where s.id = candidate.session_id for no key update;
        select t.* into turn from session_turns t where t.session_id = candidate.session_id and t.user_seq = candidate.user_seq
          and t.finished_at is null and (t.executor_id = executor or (t.executor_id is null and t.lost_executor_id = executor)) for no key update;
        continue when not found;
        request_id := vespid_i_turn_request(turn.session_id, turn.user_seq, turn.turn_epoch);
        session_id := turn.session_id; organization_id := turn.organization_id; user_seq := turn.user_seq; turn_epoch := turn.turn_epoch;
        pool := turn.pool; event_seq := null; remaining_ms := greatest(0, extract(epoch from turn.act_by - now()) * 1000 - 5000)::bigint;
        if said->'unacked' ? request_id then
            -- One that is being cancelled is told so all the same, or its host would take its answer for a part of the conversation.
            action := case when turn.state = 'cancelling' then 'cancelling' else 'waits' end;
            update session_turns t set edge_id = (said->>'edge')::uuid where t.session_id = turn.session_id and t.user_seq = turn.user_seq;
        elsif said->'running' ? request_id and (said->>'sameJournal')::boolean then
            action := case when turn.state = 'cancelling' then 'cancelling' else 'continues' end;
            if turn.executor_id is null then
                remaining_ms := held.turn_timeout_ms;
            end if;
            update session_turns t
            set state = case when t.state = 'opening' then 'running' else t.state end,
                executor_id = executor, edge_id = (said->>'edge')::uuid, lost_executor_id = null, lost_reason = null, lost_at = null,
                waits_for = null, waiting_reason = null, wait_until = null,
                act_by = case when turn.executor_id is null then now() + (held.turn_timeout_ms + 5000) * interval '1 ms' else t.act_by end,
                sweep_at = least(t.sweep_at, now() + interval '10 s')
            where t.session_id = turn.session_id and t.user_seq = turn.user_seq;
            if action = 'continues' then
                event_seq := vespid_i_tell_session(held.organization_id, held.id, turn.user_seq, jsonb_build_array(jsonb_build_object(
                    't', 'system', 'l', 'warn', 'p', jsonb_build_object('action', 'turn_restarted', 'userEventSeq', turn.user_seq))));
            end if;
        elsif turn.executor_id is null then
            continue;  -- given up for lost already, and it has nothing of it
        elsif (said->>'isBase')::boolean then
            action := 'continues';  -- it cannot list; its own silence or its end decides
            update session_turns t set edge_id = (said->>'edge')::uuid where t.session_id = turn.session_id and t.user_seq = turn.user_seq;
        else
            action := vespid_i_lose_turn(held, turn, case when (said->>'sameJournal')::boolean then 'omitted' else 'journal' end);
            select s.event_seq into event_seq from sessions s where s.id = held.id;
        end if;
        return next;
    end loop;
    for request_id in
        select l from jsonb_array_elements_text(said->'running') l
        where l ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:turn:[0-9]+:[0-9]+$'
          and not exists (select from session_turns t where t.executor_id = executor and t.finished_at is null
                          and vespid_i_turn_request(t.session_id, t.user_seq, t.turn_epoch) = l)
    loop
        action := 'foreign'; session_id := split_part(request_id, ':', 1)::uuid; organization_id := null; user_seq := null; turn_epoch := null;
        pool := null; event_seq := null; remaining_ms := null;
        return next;
    end loop;
end $$;

-- Documents that a host pushed outside of a turn. → memory_version; null where it is not this executor's session
create function vespid_x_put_memory(org uuid, session uuid, executor uuid, docs jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    held sessions;
begin
    perform vespid_i_hold_off_revokes(array[executor]);
    select s.* into held from sessions s where s.id = session and s.organization_id = org and s.pinned_executor_id = executor
      and exists (select from executors x where x.id = executor and x.revoked_at is null and x.enabled) for no key update;
    if not found then
        return null;
    end if;
    return vespid_i_put_memory(held, docs);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Sweeps
-- ---------------------------------------------------------------------------------------------------------------

-- Turns whose time has come → place (it wants a host) | ended (its time was over; stop it on `executor_id` and look at the session)
create function vespid_x_sweep_turns(most int)
returns table (session_id uuid, organization_id uuid, action text, request_id text, executor_id uuid, pool text, event_seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    candidate record;
    held sessions;
    due session_turns;
    code text;
begin
    for candidate in select t.session_id, t.user_seq from session_turns t where t.sweep_at <= now() order by t.sweep_at limit most loop
        select s.* into held from sessions s where s.id = candidate.session_id for no key update skip locked;
        continue when not found;
        select t.* into due from session_turns t where t.session_id = candidate.session_id and t.user_seq = candidate.user_seq and t.sweep_at <= now()
        for no key update;
        continue when not found;
        session_id := due.session_id; organization_id := due.organization_id; executor_id := due.executor_id; pool := due.pool;
        request_id := vespid_i_turn_request(due.session_id, due.user_seq, due.turn_epoch); event_seq := null; action := null;
        if due.finished_at is not null then
            update session_turns t set sweep_at = null where t.session_id = due.session_id and t.user_seq = due.user_seq;
        elsif due.act_by <= now() then
            if due.state = 'cancelling' then
                event_seq := vespid_i_end_turn(due, 'cancelled', 'TURN_CANCELLED', vespid_i_error_event(due, 'TURN_CANCELLED', 'The turn was cancelled.'));
            else
                code := case when due.executor_id is not null then 'NODE_EXECUTION_TIMEOUT'
                             when due.waiting_reason = 'QUOTA' then 'ORG_QUOTA_EXCEEDED'
                             when held.only_executor_id is not null and due.waiting_reason in ('ALL_FULL', 'BEHIND') then 'EXECUTOR_OVER_CAPACITY'
                             else 'NO_AGENT_AVAILABLE' end;
                event_seq := vespid_i_end_turn(due, 'failed', code, vespid_i_error_event(due, code,
                    case when due.executor_id is not null then 'The turn took longer than it may.' else 'No host was free in time.' end,
                    case when due.executor_id is null and due.waiting_reason is not null then jsonb_build_object('reason', due.waiting_reason) end));
            end if;
            action := 'ended';
        elsif vespid_i_to_be_placed(due) then
            if exists (select from session_turns t where t.session_id = due.session_id and t.finished_at is null and t.user_seq < due.user_seq) then
                update session_turns t set sweep_at = null where t.session_id = due.session_id and t.user_seq = due.user_seq;
            else
                update session_turns t set sweep_at = least(due.act_by, now() + interval '5 s') where t.session_id = due.session_id and t.user_seq = due.user_seq;
                action := 'place';
            end if;
        elsif not exists (select from executors x where x.id = due.executor_id and x.lost_at is null and x.revoked_at is null and x.enabled) then
            -- The notice of its loss was lost.
            action := case when vespid_i_lose_turn(held, due, 'closed') = 'place' then 'place' else 'ended' end;
            select s.event_seq into event_seq from sessions s where s.id = held.id;
        else
            update session_turns t set sweep_at = least(t.act_by, now() + interval '10 s') where t.session_id = due.session_id and t.user_seq = due.user_seq;
        end if;
        if action is not null then
            return next;
        end if;
    end loop;
end $$;

-- Turns that are with a host: what reservations are compared with. At most one of a session is.
create function vespid_x_live_turns(after_session uuid, most int)
returns table (session_id uuid, request_id text, organization_id uuid, pool text, executor_id uuid)
language sql stable security definer set search_path = pg_catalog, public as $$
    select t.session_id, vespid_i_turn_request(t.session_id, t.user_seq, t.turn_epoch), t.organization_id, t.pool::text, t.executor_id
    from session_turns t where t.finished_at is null and t.executor_id is not null and t.session_id > after_session
    order by t.session_id limit most
$$;

-- Whether a host that the capacity book does not know went with its gateway, not by itself: it is about to connect again.
-- Without `lost_at` it is connecting just now, or nobody has judged its gateway yet.
create function vespid_x_is_cut_off(executor uuid, within_ms int) returns boolean
language sql stable security definer set search_path = pg_catalog, public as $$
    select exists (
        select from executors x
        where x.id = executor and x.revoked_at is null and x.enabled and x.edge_id is not null
          and (x.lost_at is null
               or (x.lost_at > now() - within_ms * interval '1 ms'
                   and not exists (select from processes p where p.id = x.edge_id and p.lease_until > now()))))
$$;

do $$
declare
    fn record;
begin
    for fn in
        select p.oid::regprocedure as signature, p.proname as name from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proowner = current_user::regrole
          and p.proname = any (array[
            'vespid_create_session', 'vespid_send_messages', 'vespid_cancel_turn', 'vespid_reset_session', 'vespid_look_at_session', 'vespid_note_turn_waiting',
            'vespid_fail_unplaced_turn',
            'vespid_i_append_session_events', 'vespid_i_tell_session', 'vespid_i_turn_request', 'vespid_i_to_be_placed', 'vespid_i_end_turn',
            'vespid_i_error_event', 'vespid_i_unheard', 'vespid_i_page_end', 'vespid_i_cancel_turn', 'vespid_i_lose_turn', 'vespid_i_put_memory',
            'vespid_x_lease_turns', 'vespid_x_append_turn_events', 'vespid_x_finish_turns', 'vespid_x_lose_turns', 'vespid_x_turns_of_executor',
            'vespid_x_attach_turns', 'vespid_x_put_memory', 'vespid_x_sweep_turns', 'vespid_x_live_turns', 'vespid_x_is_cut_off'])
    loop
        execute format('revoke all on function %s from public', fn.signature);
        execute format('grant execute on function %s to vespid_service, vespid_cross', fn.signature);
        if fn.name like 'vespid\_x\_%' then
            perform vespid_cross_function(fn.signature::text);
        end if;
    end loop;
end $$;
