-- The execution plane: who is connected, what runs, what is leased to whom, and what happened.
--
-- Every change of a run or an execution is ONE statement, a call of one function below, committed by itself.
-- Functions that take an array answer one row per item, `ord` counting from 1, so that callers can be grouped.
--   vespid_*    run as the service role: they set the tenant themselves and row-level security judges.
--   vespid_x_*  cross tenants: owned by vespid_cross, a closed list (store/cross_tenant.py); each compares the
--               organization it is told with the one stored.
--   vespid_i_*  inner pieces, called only by the above.
-- Lock order everywhere: run, then its executions by request_id, then executors.

-- ---------------------------------------------------------------------------------------------------------------
-- Tables
-- ---------------------------------------------------------------------------------------------------------------

-- What a column of a hot table may hold, as domains: Postgres parses every CHECK of a table anew for each statement that
-- writes a row of it (18 µs for the six of executions), and a domain's only once per session.
create domain vespid_request_id as text check (length(value) between 1 and 300);
create domain vespid_trigger_type as text check (value in ('manual', 'webhook', 'cron', 'api'));
create domain vespid_run_status as text check (value in ('queued', 'running', 'succeeded', 'failed', 'cancelled'));
create domain vespid_event_level as text check (value in ('info', 'warn', 'error'));
create domain vespid_execution_state as text
    check (value in ('pending', 'dispatched', 'received', 'cancelling', 'succeeded', 'failed', 'cancelled'));
create domain vespid_placement as text check (value in ('executor', 'cloud', 'gateway', 'person'));
create domain vespid_pool as text check (value in ('byon', 'managed'));
create domain vespid_on_unavailable as text check (value in ('wait', 'fail'));
create domain vespid_on_lost as text check (value in ('fail', 'resend', 'wait'));

-- A server process. Its lease is the one heartbeat that Postgres sees; sockets' own heartbeats stay in memory.
create table processes (
    id          uuid primary key,
    kind        text not null check (kind in ('api', 'gateway', 'worker')),
    address     text,                       -- base URL of its internal HTTP, for a gateway
    started_at  timestamptz not null default now(),
    renewed_at  timestamptz not null default now(),
    lease_until timestamptz not null
);

create table executors (
    id                    uuid primary key,
    organization_id       uuid references organizations (id) on delete cascade,   -- null: managed
    name                  text not null,
    agent_version         text,
    tags                  text[] not null default '{}',      -- control-plane tags: these route
    tags_version          bigint not null default 1,
    reported_tags         text[] not null default '{}',      -- what the agent says: hints for people
    kinds                 text[],                            -- null: all
    connectors            text[],                            -- null: all
    engines               text[],                            -- null: not filtered by engine
    backends              text[],                            -- sandboxes it can really run; null: unknown
    capabilities          jsonb not null default '{}',
    max_in_flight         int not null default 10 check (max_in_flight between 1 and 200),
    protocol_version      int not null default 1,
    journal_id            text,
    instance_id           text,
    connection_epoch      bigint not null default 0,
    edge_id               uuid,                              -- the process that holds the socket
    connected_at          timestamptz,                       -- null until its edge has announced it: since then it is given work
    last_seen_at          timestamptz,                       -- written on connect, on close and when found silent
    lost_at               timestamptz default now(),         -- null while connected
    leases_expire_at      timestamptz,                       -- when the sweep acts on the leases of a lost one
    cordoned              boolean not null default false,
    draining              boolean not null default false,
    enabled               boolean not null default true,
    revoked_at            timestamptz,
    token_sha256          bytea not null,
    previous_token_sha256 bytea,
    previous_token_until  timestamptz,
    created_by_user_id    uuid,
    created_at            timestamptz not null default now(),
    unique (organization_id, id)
) with (fillfactor = 70);
create unique index executors_token on executors (token_sha256);
create unique index executors_previous_token on executors (previous_token_sha256) where previous_token_sha256 is not null;
create index executors_edge on executors (edge_id) where lost_at is null;
create index executors_leases on executors (leases_expire_at) where leases_expire_at is not null;
create index executors_org on executors (organization_id, created_at);

create table workflow_runs (
    id                   uuid primary key,
    organization_id      uuid not null,
    workflow_id          uuid not null,
    trigger_type         vespid_trigger_type not null,
    status               vespid_run_status not null default 'queued',
    attempt_count        int not null default 0,
    max_attempts         int not null,
    next_attempt_at      timestamptz,
    requested_by_user_id uuid,
    retry_of_run_id      uuid,                -- the run whose results it took over, which may be gone by now
    retry_from_node_id   text,
    input                jsonb,
    error                text,
    error_message        text,
    cursor               jsonb,               -- vespid.domain.run.RunState; null before the first step, unless it is a retry
    version              bigint not null default 0,
    event_seq            bigint not null default 0,
    cancel_requested     boolean not null default false,
    step_failures        int not null default 0,
    created_at           timestamptz not null default now(),
    started_at           timestamptz,
    finished_at          timestamptz,
    unique (organization_id, id),
    foreign key (organization_id, workflow_id) references workflows (organization_id, id)
) with (fillfactor = 70);
create index workflow_runs_of_workflow on workflow_runs (organization_id, workflow_id, id desc);
-- Those that are not over, and of those that are the few that people look for. A run's steps touch neither; its end
-- leaves the one, and seldom enters the other.
create index workflow_runs_unfinished on workflow_runs (organization_id, id desc) where finished_at is null;
create index workflow_runs_unhappy on workflow_runs (organization_id, status, id desc) where status in ('failed', 'cancelled');
-- All that the overview counts of runs that are over, so that it reads no run.
create index workflow_runs_ended on workflow_runs (organization_id, finished_at) include (status, created_at, started_at)
    where finished_at is not null;

-- Runs that somebody has to step, and when. A table of its own, so that the run's own updates touch no index.
create table due_runs (
    run_id          uuid primary key,
    organization_id uuid not null,
    due_at          timestamptz not null,
    foreign key (organization_id, run_id) references workflow_runs (organization_id, id) on delete cascade
) with (fillfactor = 70);
create index due_runs_due on due_runs (due_at);

create table executions (
    request_id           vespid_request_id primary key,
    organization_id      uuid not null,
    run_id               uuid,                -- null: dispatched by somebody who is not one of our runs
    workflow_id          uuid,
    node_id              text not null,
    node_type            text not null,
    attempt              int not null,
    kind                 text not null,
    placement            vespid_placement not null,
    state                vespid_execution_state not null,
    requested_by_user_id uuid,
    payload              jsonb not null,
    payload_sha256       bytea not null,
    secret_refs          jsonb,               -- vespid.store.executions.SecretRefs: references, never values
    pool                 vespid_pool not null default 'byon',
    required_tags        text[] not null default '{}',
    requirement          jsonb,               -- vespid.domain.selector.Requirement, what the signature is the hash of
    selector             jsonb,               -- as its author wrote it, to be shown while it waits
    signature            text,
    pin_executor_id      uuid,
    priority             int not null default 0,
    on_unavailable       vespid_on_unavailable not null default 'wait',
    timeout_ms           int not null,
    on_lost              vespid_on_lost not null default 'fail',
    executor_id          uuid,                -- the last holder
    holder_process       uuid,                -- the holder, where that is a server process
    lease_epoch          bigint not null default 0,
    placements           int not null default 0,
    last_event_seq       bigint not null default -1,
    waiting_reason       text,
    max_wait_ms          bigint not null default 600000,
    wait_until           timestamptz not null default now() + interval '10 min',  -- until when it may be pending; work given back goes on with its old wait
    act_by               timestamptz not null,  -- when somebody acts, whoever dies
    sweep_at             timestamptz,           -- when the sweep looks at this row again; never later than act_by + 10 s
    progress             text,                -- JSON, as far as its holder has come: the next one goes on from there
    output               jsonb,
    error                text,
    error_message        text,
    error_details        jsonb,
    applied              boolean not null default false,  -- its end is in the cursor of its run
    created_at           timestamptz not null default now(),
    granted_at           timestamptz,
    finished_at          timestamptz,
    foreign key (organization_id, run_id) references workflow_runs (organization_id, id) on delete cascade
) with (fillfactor = 70);
create index executions_of_run on executions (run_id) where run_id is not null;
create index executions_sweep on executions (sweep_at) where sweep_at is not null;
create index executions_holder on executions (executor_id) where finished_at is null and executor_id is not null;
create index executions_process on executions (holder_process) where finished_at is null and holder_process is not null;

-- Partitioned by run_id: a uuid7 begins with its time, so old history is dropped as whole partitions.
create table workflow_run_events (
    run_id          uuid not null,
    seq             bigint not null,
    id              uuid not null default gen_random_uuid(),
    organization_id uuid not null,
    workflow_id     uuid not null,
    attempt_count   int not null,
    event_type      text not null,
    node_id         text,
    node_type       text,
    level           vespid_event_level not null,
    message         text,
    payload         jsonb,
    created_at      timestamptz not null default clock_timestamp(),
    primary key (run_id, seq)
) partition by range (run_id);
create table workflow_run_events_default partition of workflow_run_events default;

-- What every process must learn within a second: revokes, cordons, tags, removed members. Written in the
-- transaction of the change; readers re-read the last seconds, so a late commit of a lower id is not missed.
create table control_feed (
    id              bigserial primary key,
    organization_id uuid,
    kind            text not null,
    subject_id      text not null,
    payload         jsonb not null default '{}',
    created_at      timestamptz not null default clock_timestamp()
);
create index control_feed_created on control_feed (created_at);

-- One row per published workflow family with a cron trigger.
create table schedules (
    family_id       uuid primary key,
    organization_id uuid not null,
    workflow_id     uuid not null,
    cron            text not null,
    timezone        text not null default 'UTC',
    next_fire_at    timestamptz not null,
    user_id         uuid,                     -- the publisher: who a fired run acts for
    foreign key (organization_id, workflow_id) references workflows (organization_id, id) on delete cascade
);
create index schedules_due on schedules (next_fire_at);

select vespid_tenant_table('executors');
select vespid_tenant_table('workflow_runs');
select vespid_tenant_table('due_runs');
select vespid_tenant_table('executions');
select vespid_tenant_table('workflow_run_events');
select vespid_tenant_table('workflow_run_events_default');
select vespid_tenant_table('schedules');
revoke all on workflow_run_events_default from vespid_service;
grant select on processes, control_feed to vespid_service;
grant insert on control_feed to vespid_service;
grant usage on sequence control_feed_id_seq to vespid_service;
grant select, insert, update, delete on
    processes, executors, workflow_runs, due_runs, executions, workflow_run_events, control_feed, schedules to vespid_cross;
grant usage on sequence control_feed_id_seq to vespid_cross;

-- ---------------------------------------------------------------------------------------------------------------
-- Inner pieces
-- ---------------------------------------------------------------------------------------------------------------

create function vespid_i_time(ms numeric) returns timestamptz
language sql immutable strict parallel safe as $$ select to_timestamp(ms / 1000.0) $$;

-- plpgsql where plain SQL would do: a function in SQL is planned anew in every call, this one once per session.
create function vespid_i_make_due(org uuid, run uuid, at timestamptz) returns void
language plpgsql as $$
begin
    insert into due_runs (run_id, organization_id, due_at) values (run, org, at)
    on conflict (run_id) do update set due_at = least(due_runs.due_at, excluded.due_at);
end $$;

-- Appends events to a run whose row the caller has locked, behind `base`, the event_seq before them.
-- events: [{"t": type, "l": level, "n": nodeId?, "nt": nodeType?, "m": message?, "p": payload?, "a": attemptCount?}]
create function vespid_i_append_events(org uuid, workflow uuid, run uuid, attempt int, base bigint, events jsonb)
returns void language plpgsql as $$
begin
    insert into workflow_run_events (run_id, seq, organization_id, workflow_id, attempt_count,
                                     event_type, level, node_id, node_type, message, payload)
    select run, base + e.ord, org, workflow, coalesce(e.a, attempt), e.t, coalesce(e.l, 'info'), e.n, e.nt, e.m, nullif(e.p, 'null'::jsonb)
    from rows from (jsonb_to_recordset(events) as (t text, l text, n text, nt text, m text, p jsonb, a int))
         with ordinality as e (t, l, n, nt, m, p, a, ord);
end $$;

create function vespid_i_tags(tags jsonb) returns text[]
language plpgsql immutable parallel safe as $$
begin
    if tags is null or tags = '[]' then
        return '{}';  -- as good as always
    end if;
    return (select array_agg(tag) from jsonb_array_elements_text(tags) tag);
end $$;

-- One execution row from JSON (vespid.store.executions.NewRow). It is leased at once to the executor that is given, or
-- to the server process that the row names as `holder`. One that waits for people (placement person) is held by nobody,
-- and its `asks` become rows of approvals (migration 0006, as are the functions of people called below).
create function vespid_i_insert_execution(org uuid, item jsonb, executor uuid default null) returns boolean
language plpgsql as $$
declare
    holder uuid := (item->>'holder')::uuid;
    timeout int := (item->>'timeoutMs')::int;
    is_leased boolean := holder is not null or executor is not null;
    is_asking boolean := item->>'placement' = 'person';
    wait_ms bigint := coalesce((item->>'maxWaitMs')::bigint, 600000);
    deadline timestamptz := now() + case when is_leased then timeout + 5000 else wait_ms end * interval '1 ms';
begin
    insert into executions (request_id, organization_id, run_id, workflow_id, node_id, node_type, attempt, kind, placement, state,
                            requested_by_user_id, payload, payload_sha256, secret_refs, pool, required_tags, requirement, selector, signature,
                            pin_executor_id, priority, on_unavailable, timeout_ms, on_lost,
                            executor_id, holder_process, lease_epoch, placements, granted_at, max_wait_ms, wait_until, act_by, sweep_at)
    values (item->>'requestId', org, (item->>'runId')::uuid, (item->>'workflowId')::uuid, item->>'nodeId', item->>'nodeType',
            (item->>'attempt')::int, item->>'kind', item->>'placement',
            case when is_leased then 'dispatched' else 'pending' end,
            (item->>'userId')::uuid, item->'payload', decode(item->>'payloadSha256', 'hex'), nullif(item->'secretRefs', 'null'::jsonb),
            coalesce(item->>'pool', 'byon'),
            vespid_i_tags(item->'requiredTags'),
            nullif(item->'requirement', 'null'::jsonb), nullif(item->'selector', 'null'::jsonb), item->>'signature', (item->>'pinExecutorId')::uuid,
            coalesce((item->>'priority')::int, 0), coalesce(item->>'onUnavailable', 'wait'), timeout, coalesce(item->>'onLost', 'fail'),
            executor, holder, case when is_leased then 1 else 0 end, case when is_leased then 1 else 0 end,
            case when is_leased then now() end,
            wait_ms, now() + wait_ms * interval '1 ms', deadline, case when is_asking then deadline else least(deadline, now() + interval '5 s') end)
    on conflict (request_id) do nothing;
    if not found then
        return false;
    end if;
    if is_asking then
        perform vespid_i_ask_people(org, item);
    end if;
    return true;
end $$;

-- Writes one step of a run, guarded by its version. Answers null where the version has moved.
--   item: {org, run, version, status, attempt, cursor, error?, errorMessage?, nextAttemptAt?, dueAt?, started?, finished?,
--          events: […], executions: […], cancels: [requestId…], applied: [requestId…]}
--   head: events that come before the step's own (the tail of a remote stream)
--   answer: {version, seq, cancelled: [requestId…], cancelling: [{requestId, executorId, holder, leaseEpoch}…]}
create function vespid_i_write_step(item jsonb, head jsonb default '[]') returns jsonb
language plpgsql as $$
declare
    org uuid := (item->>'org')::uuid;
    run uuid := (item->>'run')::uuid;
    events jsonb := head || coalesce(item->'events', '[]');
    count int := jsonb_array_length(events);
    due timestamptz := vespid_i_time((item->>'dueAt')::numeric);
    final boolean := coalesce((item->>'finished')::boolean, false);
    written record;
    entry record;
    cancelled jsonb := '[]';
    cancelling jsonb := '[]';
begin
    update workflow_runs r
    set status = item->>'status', attempt_count = (item->>'attempt')::int, cursor = item->'cursor',
        error = item->>'error', error_message = item->>'errorMessage',
        next_attempt_at = vespid_i_time((item->>'nextAttemptAt')::numeric),
        started_at = case when coalesce((item->>'started')::boolean, false) then coalesce(r.started_at, clock_timestamp()) else r.started_at end,
        finished_at = case when final then clock_timestamp() end,
        version = r.version + 1, event_seq = r.event_seq + count, step_failures = 0
    where r.id = run and r.organization_id = org and r.version = (item->>'version')::bigint and r.finished_at is null
    returning r.version, r.event_seq, r.workflow_id, r.attempt_count into written;
    if not found then
        return null;
    end if;
    if count > 0 then
        perform vespid_i_append_events(org, written.workflow_id, run, written.attempt_count, written.event_seq - count, events);
    end if;
    if jsonb_array_length(coalesce(item->'applied', '[]')) > 0 then
        update executions set applied = true
        where request_id in (select jsonb_array_elements_text(item->'applied')) and run_id = run;
    end if;
    for n in 0 .. jsonb_array_length(coalesce(item->'executions', '[]')) - 1 loop
        perform vespid_i_insert_execution(org, item->'executions'->n);
    end loop;
    if jsonb_array_length(coalesce(item->'cancels', '[]')) > 0 then
        for entry in
            select e.request_id, e.state, e.placement, e.executor_id, e.holder_process, e.lease_epoch from executions e
            where e.request_id in (select jsonb_array_elements_text(item->'cancels')) and e.run_id = run and e.finished_at is null
            order by e.request_id for update
        loop
            if entry.state = 'pending' then
                update executions set state = 'cancelled', error = 'NODE_EXECUTION_CANCELLED', finished_at = clock_timestamp(), sweep_at = null
                where request_id = entry.request_id;
                if entry.placement = 'person' then
                    perform vespid_i_withdraw_approvals(run, entry.request_id);
                end if;
                cancelled := cancelled || jsonb_build_array(entry.request_id);
            else
                update executions set state = 'cancelling', act_by = now() + interval '10 s', sweep_at = now() + interval '10 s'
                where request_id = entry.request_id;
                cancelling := cancelling || jsonb_build_array(jsonb_build_object('requestId', entry.request_id, 'executorId', entry.executor_id,
                                                                                 'holder', entry.holder_process, 'leaseEpoch', entry.lease_epoch));
            end if;
        end loop;
        if jsonb_array_length(cancelled) > 0 and not final then
            due := now();  -- their ends are input that no result will bring
        end if;
    end if;
    delete from due_runs where run_id = run;
    if due is not null and not final then
        perform vespid_i_make_due(org, run, due);
    end if;
    return jsonb_build_object('version', written.version, 'seq', written.event_seq, 'cancelled', cancelled, 'cancelling', cancelling);
end $$;

-- Locks one execution and, before it, its run, and answers the row as it is then: what was read before the locks may be
-- somebody else's lease by now. Every change of an execution outside of its grant begins with this. Null: no such row.
create function vespid_i_lock_execution(request text) returns executions
language plpgsql as $$
declare
    run uuid;
    locked executions;
begin
    select e.run_id into run from executions e where e.request_id = request;
    if run is not null then
        perform 1 from workflow_runs r where r.id = run for no key update;
    end if;
    select e.* into locked from executions e where e.request_id = request for no key update;
    return locked;
end $$;

-- Work of these executors may be committed until the caller's transaction ends: a revoke of one of them waits for it,
-- and what comes after the revoke sees it. Without this a result that had passed the look at `revoked_at` could be
-- committed behind the revoke. Taken before any row lock, so that whoever waits here holds up nobody.
create function vespid_i_hold_off_revokes(ids uuid[]) returns void
language plpgsql as $$
declare
    executor uuid;
begin
    for executor in select distinct i from unnest(ids) i where i is not null order by i loop
        perform pg_advisory_xact_lock_shared(vespid_i_revoke_lock(executor));
    end loop;
end $$;

create function vespid_i_revoke_lock(executor uuid) returns bigint
language sql immutable strict parallel safe as $$ select hashtextextended(executor::text, 7665) $$;

create function vespid_i_await_commits() returns trigger
language plpgsql as $$
begin
    perform pg_advisory_xact_lock(vespid_i_revoke_lock(new.id));
    return new;
end $$;
create trigger executors_revoked before update of revoked_at, enabled on executors for each row
    when (new.revoked_at is distinct from old.revoked_at or new.enabled is distinct from old.enabled)
    execute function vespid_i_await_commits();

-- Ends one live execution on the server's own account (a deadline, a lost lease, a revoke) and leaves the result for
-- a worker to apply. The caller has locked it (vespid_i_lock_execution). Answers false where it has ended meanwhile.
create function vespid_i_conclude(request text, new_state text, code text, detail jsonb default null) returns boolean
language plpgsql as $$
declare
    target record;
begin
    update executions e
    set state = new_state, error = code, error_details = detail, finished_at = clock_timestamp(),
        sweep_at = case when e.run_id is null then now() + interval '15 min' end
    where e.request_id = request and e.finished_at is null
    returning e.run_id, e.organization_id, e.placement into target;
    if not found then
        return false;
    end if;
    if target.placement = 'person' then
        perform vespid_i_withdraw_approvals(target.run_id, request);
    end if;
    if target.run_id is not null then
        update workflow_runs r set version = r.version + 1 where r.id = target.run_id and r.finished_at is null;
        if found then
            perform vespid_i_make_due(target.organization_id, target.run_id, now());
        end if;
    end if;
    return true;
end $$;

-- What becomes of one lease whose holder is lost (execution.md §2, row "lost"). `epoch`: the lease that the caller saw;
-- where another one stands by now, nothing is changed. `final`: no waiting for this holder (revoked, or another journal).
-- Answers 'reoffer', 'concluded' or 'kept'.
create function vespid_i_lose_lease(request text, epoch bigint, final boolean) returns text
language plpgsql as $$
declare
    held executions := vespid_i_lock_execution(request);
begin
    if held.request_id is null or held.finished_at is not null or held.lease_epoch <> epoch or held.state = 'pending' then
        return 'kept';
    end if;
    if held.state = 'cancelling' then
        perform vespid_i_conclude(request, 'cancelled', 'NODE_EXECUTION_CANCELLED');
        return 'concluded';
    end if;
    if held.on_lost = 'wait' and not final then
        return 'kept';
    end if;
    if held.on_lost = 'resend' and held.placements < 3 and held.pin_executor_id is null then
        update executions e
        set state = 'pending', wait_until = now() + e.max_wait_ms * interval '1 ms', act_by = now() + e.max_wait_ms * interval '1 ms',
            sweep_at = least(now() + e.max_wait_ms * interval '1 ms', now() + interval '5 s')
        where e.request_id = request;
        return 'reoffer';
    end if;
    perform vespid_i_conclude(request, 'failed', 'AGENT_DISCONNECTED',
                              case when held.placements >= 3 then '{"quarantined": true}'::jsonb end);
    return 'concluded';
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Runs (tenant functions)
-- ---------------------------------------------------------------------------------------------------------------

-- The results that a new run takes over from an earlier one: copies, so that templates, routes and readers find them
-- where they find all others, whatever becomes of the earlier run. Nobody carries them out again: they have ended.
--   retry: {runId, fromNodeId?, cursor, nodes: [nodeId…]}
create function vespid_i_take_over(org uuid, run uuid, asker uuid, retry jsonb) returns void
language plpgsql as $$
begin
    insert into executions (request_id, organization_id, run_id, workflow_id, node_id, node_type, attempt, kind, placement, state,
                            requested_by_user_id, payload, payload_sha256, pool, timeout_ms, on_lost, act_by, output, applied,
                            granted_at, finished_at)
    select run::text || ':' || e.node_id || ':1', org, run, e.workflow_id, e.node_id, e.node_type, 1, e.kind, e.placement, 'succeeded',
           asker, '{}', e.payload_sha256, e.pool, e.timeout_ms, e.on_lost, e.act_by, e.output, true, e.granted_at, e.finished_at
    from (
        select distinct on (x.node_id) x.* from executions x
        where x.organization_id = org and x.run_id = (retry->>'runId')::uuid and x.finished_at is not null
          and x.placement <> 'person' and x.error is distinct from 'APPROVAL_REQUIRED'
          and x.node_id in (select jsonb_array_elements_text(retry->'nodes'))
        order by x.node_id, x.attempt desc
    ) e;
end $$;

-- C1. items: [{org, id, workflowId, triggerType, userId?, input, maxAttempts, retry?, step?}] → created | not_found | not_published
-- With `step` (as in vespid_i_write_step, but it can cancel and apply nothing yet) the run is written as it is after its
-- first step: C1 and C2 in one. detail: what the step answers; null where none was written, and the run is due.
create function vespid_create_runs(items jsonb[])
returns table (ord int, outcome text, created_at timestamptz, detail jsonb) language plpgsql as $$
declare
    item jsonb;
    step jsonb;
    org uuid;
    run uuid;
    events jsonb;
    count int;
    due timestamptz;
    final boolean;
    workflow_status text;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        item := items[ord];
        org := (item->>'org')::uuid;
        perform set_config('app.current_org_id', org::text, true);
        detail := null;
        select w.status into workflow_status from workflows w where w.organization_id = org and w.id = (item->>'workflowId')::uuid;
        if not found then
            outcome := 'not_found';
        elsif workflow_status <> 'published' then
            outcome := 'not_published';
        elsif item ? 'retry' and not exists (
                select from workflow_runs r where r.organization_id = org and r.id = (item->'retry'->>'runId')::uuid
                and r.workflow_id = (item->>'workflowId')::uuid and r.finished_at is not null) then
            outcome := 'not_found';
        else
            run := (item->>'id')::uuid;
            step := item->'step';
            events := coalesce(step->'events', '[]');
            count := jsonb_array_length(events);
            final := coalesce((step->>'finished')::boolean, false);
            due := case when step is null then now() when not final then vespid_i_time((step->>'dueAt')::numeric) end;
            insert into workflow_runs (id, organization_id, workflow_id, trigger_type, max_attempts, requested_by_user_id, input,
                                       retry_of_run_id, retry_from_node_id, status, attempt_count, cursor, version, event_seq, error, error_message, next_attempt_at,
                                       started_at, finished_at)
            values (run, org, (item->>'workflowId')::uuid, item->>'triggerType', (item->>'maxAttempts')::int,
                    (item->>'userId')::uuid, item->'input', (item->'retry'->>'runId')::uuid, item->'retry'->>'fromNodeId',
                    coalesce(step->>'status', 'queued'), coalesce((step->>'attempt')::int, 0), coalesce(step->'cursor', item->'retry'->'cursor'),
                    case when step is null then 0 else 1 end, count, step->>'error', step->>'errorMessage',
                    vespid_i_time((step->>'nextAttemptAt')::numeric),
                    case when coalesce((step->>'started')::boolean, false) then clock_timestamp() end,
                    case when final then clock_timestamp() end)
            on conflict (id) do nothing;
            outcome := 'created';
            if found then
                if due is not null then
                    insert into due_runs (run_id, organization_id, due_at) values (run, org, due);
                end if;
                if item ? 'retry' then
                    perform vespid_i_take_over(org, run, (item->>'userId')::uuid, item->'retry');
                end if;
                if step is not null then
                    perform vespid_i_append_events(org, (item->>'workflowId')::uuid, run, (step->>'attempt')::int, 0, events);
                    for n in 0 .. jsonb_array_length(coalesce(step->'executions', '[]')) - 1 loop
                        perform vespid_i_insert_execution(org, step->'executions'->n);
                    end loop;
                    detail := jsonb_build_object('version', 1, 'seq', count);
                end if;
            end if;
        end if;
        created_at := now();
        return next;
    end loop;
end $$;

-- C2. Steps of several runs, each guarded by its version → ok (with what vespid_i_write_step answers) | conflict
create function vespid_apply_steps(items jsonb[])
returns table (ord int, outcome text, detail jsonb) language plpgsql as $$
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        perform set_config('app.current_org_id', items[ord]->>'org', true);
        detail := vespid_i_write_step(items[ord]);
        outcome := case when detail is null then 'conflict' else 'ok' end;
        return next;
    end loop;
end $$;

-- A step that raised. Tried again a little later; after the fifth the run fails with INTERNAL_ERROR.
create function vespid_step_failed(org uuid, run uuid, at_version bigint, message text)
returns text language plpgsql as $$
declare
    failed record;
begin
    perform set_config('app.current_org_id', org::text, true);
    update workflow_runs r set step_failures = r.step_failures + 1, version = r.version + 1
    where r.id = run and r.organization_id = org and r.version = at_version and r.finished_at is null
    returning r.step_failures, r.event_seq, r.workflow_id, r.attempt_count into failed;
    if not found then
        return 'conflict';
    end if;
    if failed.step_failures < 5 then
        delete from due_runs where run_id = run;
        perform vespid_i_make_due(org, run, now() + failed.step_failures * interval '1 s');
        return 'again';
    end if;
    update workflow_runs r set status = 'failed', error = 'INTERNAL_ERROR', error_message = message,
           finished_at = clock_timestamp(), event_seq = r.event_seq + 1 where r.id = run;
    perform vespid_i_append_events(org, failed.workflow_id, run, failed.attempt_count, failed.event_seq,
        jsonb_build_array(jsonb_build_object('t', 'run_failed', 'l', 'error', 'm', 'INTERNAL_ERROR')));
    update executions set state = case when state = 'pending' then 'cancelled' else 'cancelling' end,
           finished_at = case when state = 'pending' then clock_timestamp() end,
           act_by = now() + interval '10 s', sweep_at = case when state <> 'pending' then now() end
    where run_id = run and finished_at is null and organization_id = org;
    perform vespid_i_withdraw_approvals(run);
    delete from due_runs where run_id = run;
    return 'failed';
end $$;

-- A person asks for a run's end: input for the machine, which a worker takes up at once.
create function vespid_cancel_run(org uuid, run uuid) returns text
language plpgsql as $$
begin
    perform set_config('app.current_org_id', org::text, true);
    update workflow_runs r set cancel_requested = true, version = r.version + 1
    where r.id = run and r.organization_id = org and r.finished_at is null;
    if found then
        perform vespid_i_make_due(org, run, now());
        return 'requested';
    end if;
    perform 1 from workflow_runs r where r.id = run and r.organization_id = org;
    return case when found then 'finished' else 'not_found' end;
end $$;

-- All that a step needs: the run, and the ends of its executions that are not in the cursor yet.
create function vespid_load_run(org uuid, run uuid)
returns table (workflow_id uuid, status text, attempt_count int, max_attempts int, requested_by_user_id uuid, input jsonb, cursor jsonb,
               version bigint, cancel_requested boolean, finished boolean, next_attempt_at timestamptz, ends jsonb, settings jsonb)
language plpgsql stable as $$
begin
    perform set_config('app.current_org_id', org::text, true);
    return query
    select r.workflow_id, r.status::text, r.attempt_count, r.max_attempts, r.requested_by_user_id, r.input, r.cursor, r.version,
           r.cancel_requested, r.finished_at is not null, r.next_attempt_at,
           (select jsonb_agg(jsonb_build_object('requestId', e.request_id, 'nodeId', e.node_id, 'attempt', e.attempt, 'state', e.state,
                                                'output', e.output, 'error', e.error, 'errorMessage', e.error_message,
                                                'errorDetails', e.error_details)
                             order by e.finished_at)
            from executions e where e.run_id = r.id and e.finished_at is not null and not e.applied),
           (select s.settings from org_settings s where s.organization_id = r.organization_id)
    from workflow_runs r where r.id = run and r.organization_id = org;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Executions
-- ---------------------------------------------------------------------------------------------------------------

-- Puts requests of the internal dispatch route down as pending. items: [{org, …NewRow}]
--   → created | exists (with what stands there) | conflict (another organization or payload)
create function vespid_x_create_executions(items jsonb[])
returns table (ord int, outcome text, state text, output jsonb, error text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    stored record;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        state := 'pending'; output := null; error := null; error_message := null;
        if vespid_i_insert_execution((items[ord]->>'org')::uuid, items[ord]) then
            outcome := 'created';
        else
            select e.organization_id, e.payload_sha256, e.state, e.output, e.error, e.error_message into stored
            from executions e where e.request_id = items[ord]->>'requestId';
            if stored.organization_id = (items[ord]->>'org')::uuid
               and stored.payload_sha256 = decode(items[ord]->>'payloadSha256', 'hex') then
                outcome := 'exists';
                state := stored.state; output := stored.output; error := stored.error; error_message := stored.error_message;
            else
                outcome := 'conflict'; state := null;
            end if;
        end if;
        return next;
    end loop;
end $$;

-- C3. Leases requests to executors: committed before the first byte of `execute` is sent. Redis only proposed.
-- items: [{request, executor, connectionEpoch, edge, create?: {org, …NewRow}}]
--   → granted (all that `execute` needs) | refused (the executor may not have it) | gone (no longer pending)
--     | exists | conflict (only with create)
create function vespid_x_grant_executions(items jsonb[])
returns table (ord int, outcome text, lease_epoch bigint, organization_id uuid, run_id uuid, workflow_id uuid, node_id text, node_type text,
               attempt int, kind text, requested_by_user_id uuid, payload jsonb, secret_refs jsonb, timeout_ms int, on_lost text,
               state text, output jsonb, error text, error_message text)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    request text;
    host record;
    stored record;
    fresh jsonb;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        item := items[ord];
        request := item->>'request';
        outcome := null; lease_epoch := null; state := null; output := null; error := null; error_message := null;
        select x.organization_id, x.tags into host from executors x
        where x.id = (item->>'executor')::uuid and x.connection_epoch = (item->>'connectionEpoch')::bigint
          and x.edge_id = (item->>'edge')::uuid and x.lost_at is null and x.revoked_at is null
          and not x.cordoned and not x.draining and x.enabled;
        if not found then
            outcome := 'refused';
            return next;
            continue;
        end if;
        fresh := item->'create';
        if fresh is not null then
            organization_id := (fresh->>'org')::uuid;
            if organization_id is distinct from coalesce(host.organization_id, organization_id)
               or (coalesce(fresh->>'pool', 'byon') = 'managed') <> (host.organization_id is null)
               or not host.tags @> vespid_i_tags(fresh->'requiredTags')
               or coalesce((fresh->>'pinExecutorId')::uuid, (item->>'executor')::uuid) <> (item->>'executor')::uuid then
                outcome := 'refused';  -- a refusal leaves no row
                return next;
                continue;
            end if;
            if vespid_i_insert_execution(organization_id, fresh, (item->>'executor')::uuid) then
                outcome := 'granted'; state := 'dispatched'; lease_epoch := 1;
                run_id := (fresh->>'runId')::uuid; workflow_id := (fresh->>'workflowId')::uuid;
                node_id := fresh->>'nodeId'; node_type := fresh->>'nodeType'; attempt := (fresh->>'attempt')::int;
                kind := fresh->>'kind'; requested_by_user_id := (fresh->>'userId')::uuid; payload := fresh->'payload';
                secret_refs := nullif(fresh->'secretRefs', 'null'::jsonb); timeout_ms := (fresh->>'timeoutMs')::int;
                on_lost := coalesce(fresh->>'onLost', 'fail');
                return next;
                continue;
            end if;
            select e.organization_id, e.payload_sha256, e.state, e.output, e.error, e.error_message into stored
            from executions e where e.request_id = request;
            if stored.organization_id is distinct from organization_id
               or stored.payload_sha256 is distinct from decode(fresh->>'payloadSha256', 'hex') then
                outcome := 'conflict';
            elsif stored.state <> 'pending' then
                outcome := 'exists';
                state := stored.state; output := stored.output; error := stored.error; error_message := stored.error_message;
            end if;
            if outcome is not null then
                return next;
                continue;
            end if;
        end if;
        update executions e
        set state = 'dispatched', executor_id = (item->>'executor')::uuid, holder_process = null,
            lease_epoch = e.lease_epoch + 1, placements = e.placements + 1, granted_at = clock_timestamp(), waiting_reason = null,
            last_event_seq = -1,  -- whoever has it now counts its events anew
            act_by = now() + (e.timeout_ms + 5000) * interval '1 ms'
        where e.request_id = request and e.state = 'pending' and e.placement = 'executor'
          and ((e.pool = 'byon' and e.organization_id = host.organization_id) or (e.pool = 'managed' and host.organization_id is null))
          and host.tags @> e.required_tags
          and (e.pin_executor_id is null or e.pin_executor_id = (item->>'executor')::uuid)
        returning e.lease_epoch, e.organization_id, e.run_id, e.workflow_id, e.node_id, e.node_type, e.attempt, e.kind,
                  e.requested_by_user_id, e.payload, e.secret_refs, e.timeout_ms, e.on_lost, e.state
        into lease_epoch, organization_id, run_id, workflow_id, node_id, node_type, attempt, kind,
             requested_by_user_id, payload, secret_refs, timeout_ms, on_lost, state;
        if found then
            outcome := 'granted';
        else
            perform 1 from executions e where e.request_id = request and e.state = 'pending';
            outcome := case when found then 'refused' else 'gone' end;
        end if;
        return next;
    end loop;
end $$;

-- Leases pending work of the server's own kinds to this process. kinds of placement: cloud, gateway. `running`: what it
-- runs; what it holds beside that for a while was leased by a step whose outcome it never learned, and is taken up now.
create function vespid_x_claim_cloud(process uuid, placements_wanted text[], running text[], most int)
returns table (request_id text, lease_epoch bigint, organization_id uuid, run_id uuid, workflow_id uuid, node_id text, node_type text,
               attempt int, kind text, requested_by_user_id uuid, payload jsonb, secret_refs jsonb, timeout_ms int)
language sql security definer set search_path = pg_catalog, public as $$
    with free as (
        select e.request_id from executions e
        where e.sweep_at is not null and e.state = 'pending' and e.placement = any (placements_wanted)
        order by e.sweep_at limit most for update skip locked
    ), doubtful as (
        select e.request_id from executions e
        where e.holder_process = process and e.finished_at is null and e.state = 'dispatched'
          and e.granted_at < now() - interval '10 s' and e.request_id <> all (running)
        limit most for update skip locked
    )
    update executions e
    set state = 'dispatched', holder_process = process, lease_epoch = e.lease_epoch + 1, placements = e.placements + 1,
        last_event_seq = -1, granted_at = clock_timestamp(), act_by = now() + (e.timeout_ms + 5000) * interval '1 ms'
    from (table free union table doubtful limit most) taken where e.request_id = taken.request_id
    returning e.request_id, e.lease_epoch, e.organization_id, e.run_id, e.workflow_id, e.node_id, e.node_type, e.attempt, e.kind,
              e.requested_by_user_id, e.payload, e.secret_refs, e.timeout_ms
$$;

-- C4. Results, each made terminal and applied to its run in one go.
-- items: [{request, executor?, connectionEpoch?, process?, epoch?, status, output?, error?, errorMessage?, errorDetails?,
--          tail: [{t, l, n, nt, m, p}…], lastEventSeq?, keepMs, step?: as in vespid_i_write_step}]
--   → applied | deferred (the result stands, a worker applies it) | cancelled (likewise; it was being cancelled)
--     | duplicate | fenced | unknown — the agent is acknowledged after any of these —
--     | stale (the connection is not the executor's newest, or it is revoked: no answer, the socket is to be closed)
create function vespid_x_finish_executions(items jsonb[])
returns table (ord int, outcome text, organization_id uuid, run_id uuid, detail jsonb)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    request text;
    executor uuid;
    held record;
    due record;
    tail jsonb;
    final_state text;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        item := items[ord];
        request := item->>'request';
        executor := (item->>'executor')::uuid;
        organization_id := null; run_id := null; detail := null;
        if executor is not null then
            perform 1 from executors x
            where x.id = executor and x.revoked_at is null and x.connection_epoch = (item->>'connectionEpoch')::bigint;
            if not found then
                outcome := 'stale';
                return next;
                continue;
            end if;
        end if;
        select e.run_id, e.organization_id into run_id, organization_id from executions e where e.request_id = request;
        if not found then
            outcome := 'unknown';
            return next;
            continue;
        end if;
        if run_id is not null then
            perform 1 from workflow_runs r where r.id = run_id for no key update;
        end if;
        select e.state, e.executor_id, e.holder_process, e.lease_epoch, e.finished_at, e.attempt, e.workflow_id, e.last_event_seq into held
        from executions e where e.request_id = request for no key update;
        if executor is distinct from held.executor_id or (item->>'process')::uuid is distinct from held.holder_process
           or coalesce((item->>'epoch')::bigint, held.lease_epoch) <> held.lease_epoch or held.lease_epoch = 0 then
            outcome := 'fenced';
            return next;
            continue;
        end if;
        if held.finished_at is not null then
            outcome := 'duplicate';
            return next;
            continue;
        end if;
        tail := coalesce(item->'tail', '[]');
        final_state := case when held.state = 'cancelling' then 'cancelled' else item->>'status' end;
        outcome := case when held.state = 'cancelling' then 'cancelled' else 'applied' end;
        if run_id is not null then
            if outcome = 'applied' and item->'step' is not null and (item->'step'->>'org')::uuid = organization_id
               and (item->'step'->>'run')::uuid = run_id then
                detail := vespid_i_write_step(item->'step', tail);
            end if;
            if detail is null then
                -- The version has moved, the machine had nothing to say, or the work was being cancelled.
                outcome := case when outcome = 'cancelled' then 'cancelled' else 'deferred' end;
                update workflow_runs r set version = r.version + 1, event_seq = r.event_seq + jsonb_array_length(tail)
                where r.id = run_id and r.finished_at is null
                returning r.event_seq, r.workflow_id, r.attempt_count into due;
                if found then
                    if jsonb_array_length(tail) > 0 then
                        perform vespid_i_append_events(organization_id, due.workflow_id, run_id, due.attempt_count,
                                                       due.event_seq - jsonb_array_length(tail), tail);
                    end if;
                    perform vespid_i_make_due(organization_id, run_id, now());
                end if;
            end if;
        end if;
        update executions e
        set state = final_state,
            output = case when final_state = 'cancelled' then null else nullif(item->'output', 'null'::jsonb) end,
            error = case when final_state = 'cancelled' then 'NODE_EXECUTION_CANCELLED' else item->>'error' end,
            error_message = item->>'errorMessage', error_details = nullif(item->'errorDetails', 'null'::jsonb),
            last_event_seq = greatest(e.last_event_seq, coalesce((item->>'lastEventSeq')::bigint, e.last_event_seq)),
            progress = case when final_state <> 'succeeded' then e.progress end,
            applied = (outcome = 'applied'), finished_at = clock_timestamp(),
            sweep_at = case when e.run_id is null then now() + coalesce((item->>'keepMs')::bigint, 900000) * interval '1 ms' end
        where e.request_id = request;
        return next;
    end loop;
end $$;

-- Remote events of running work. items: [{request, executor, connectionEpoch, epoch?, lastEventSeq, firstEventSeq, events: [{t,l,n,nt,m,p}…]}]
-- The caller drops repeats it knows of; what Postgres has seen already is refused as a whole → appended | fenced
create function vespid_x_append_remote_events(items jsonb[])
returns table (ord int, outcome text, run_id uuid, seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    held record;
    written record;
    count int;
begin
    perform vespid_i_hold_off_revokes(array(select (i->>'executor')::uuid from unnest(items) i));
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        item := items[ord];
        count := jsonb_array_length(item->'events');
        outcome := 'fenced'; run_id := null; seq := null;
        select e.run_id, e.organization_id, e.lease_epoch into held from executions e join executors x on x.id = e.executor_id
        where e.request_id = item->>'request' and e.executor_id = (item->>'executor')::uuid
          and x.revoked_at is null and x.connection_epoch = (item->>'connectionEpoch')::bigint
          and coalesce((item->>'epoch')::bigint, e.lease_epoch) = e.lease_epoch
          and e.state in ('dispatched', 'received') and e.last_event_seq < (item->>'firstEventSeq')::bigint;
        if found then
            if held.run_id is not null then
                update workflow_runs r set event_seq = r.event_seq + count where r.id = held.run_id and r.finished_at is null
                returning r.event_seq, r.workflow_id, r.attempt_count into written;
                if not found then
                    return next;
                    continue;
                end if;
            end if;
            update executions e
            set last_event_seq = (item->>'lastEventSeq')::bigint, state = case when e.state = 'dispatched' then 'received' else e.state end
            where e.request_id = item->>'request' and e.executor_id = (item->>'executor')::uuid
              and e.state in ('dispatched', 'received') and e.lease_epoch = held.lease_epoch
              and e.last_event_seq < (item->>'firstEventSeq')::bigint;
            if not found then
                -- It ended between the two statements; undo the numbers so that seq stays without gaps.
                if held.run_id is not null then
                    update workflow_runs r set event_seq = r.event_seq - count where r.id = held.run_id;
                end if;
            else
                if held.run_id is not null then
                    perform vespid_i_append_events(held.organization_id, written.workflow_id, held.run_id, written.attempt_count,
                                                   written.event_seq - count, item->'events');
                    run_id := held.run_id; seq := written.event_seq;
                end if;
                outcome := 'appended';
            end if;
        end if;
        return next;
    end loop;
end $$;

-- What the holder of work of the server's own kinds has come to: what it tells of it, and the state from which the next
-- holder would go on, in one statement. items: [{request, process, epoch, events: [{t,l,n,nt,m,p}…], lastEventSeq, progress?: text,
-- further?}]. Events that were seen already, in a statement whose outcome its sender never learned, are passed over.
-- One that has come further than it was when it was leased has done its hosts no harm: its placements count anew.
--   → kept | fenced
create function vespid_x_keep_executions(items jsonb[])
returns table (ord int, outcome text, run_id uuid, seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    item jsonb;
    held record;
    written record;
    count int;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        item := items[ord];
        outcome := 'fenced'; run_id := null; seq := null;
        select e.run_id, e.organization_id, e.last_event_seq into held from executions e
        where e.request_id = item->>'request' and e.holder_process = (item->>'process')::uuid
          and e.lease_epoch = (item->>'epoch')::bigint and e.state in ('dispatched', 'received');
        if found then
            count := case when held.last_event_seq < (item->>'lastEventSeq')::bigint then jsonb_array_length(item->'events') else 0 end;
            if held.run_id is not null and count > 0 then
                update workflow_runs r set event_seq = r.event_seq + count where r.id = held.run_id and r.finished_at is null
                returning r.event_seq, r.workflow_id, r.attempt_count into written;
                if not found then
                    return next;
                    continue;
                end if;
            end if;
            update executions e
            set progress = coalesce(item->>'progress', e.progress),
                last_event_seq = greatest(e.last_event_seq, (item->>'lastEventSeq')::bigint),
                placements = case when (item->>'further')::boolean then 1 else e.placements end
            where e.request_id = item->>'request' and e.holder_process = (item->>'process')::uuid
              and e.lease_epoch = (item->>'epoch')::bigint and e.state in ('dispatched', 'received');
            if found then
                outcome := 'kept';
                if held.run_id is not null and count > 0 then
                    perform vespid_i_append_events(held.organization_id, written.workflow_id, held.run_id, written.attempt_count,
                                                   written.event_seq - count, item->'events');
                    run_id := held.run_id; seq := written.event_seq;
                end if;
            elsif held.run_id is not null and count > 0 then
                -- The lease passed between the two statements; undo the numbers so that seq stays without gaps.
                update workflow_runs r set event_seq = r.event_seq - count where r.id = held.run_id;
            end if;
        end if;
        return next;
    end loop;
end $$;

-- A process that stops gives back work of the server's own kinds that can go on elsewhere: no placement is counted.
create function vespid_x_hand_over(request text, process uuid, epoch bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update executions e
    set state = 'pending', placements = greatest(e.placements - 1, 0), wait_until = now() + e.max_wait_ms * interval '1 ms',
        act_by = now() + e.max_wait_ms * interval '1 ms', sweep_at = now()
    where e.request_id = request and e.holder_process = process and e.lease_epoch = epoch and e.state in ('dispatched', 'received');
    return found;
end $$;

-- From where an execution goes on that is not begun for the first time: what its last holder kept, else what an earlier
-- attempt of its node kept or was parked with (`output.loop`), the newest first; the tool events of all of them, the
-- newest first to count against `prior_max_chars`, told oldest first; and what people decided of its calls, in the order in
-- which they were asked. One row, or none: it is another organization's.
create function vespid_x_read_resume(org uuid, request text, prior_max_chars int)
returns table (resume text, prior jsonb, decided jsonb)
language plpgsql stable security definer set search_path = pg_catalog, public as $$
declare
    asked record;
begin
    select e.run_id, e.node_id, e.kind, e.attempt, e.progress into asked from executions e
    where e.request_id = request and e.organization_id = org;
    if not found then
        return;
    end if;
    resume := asked.progress;
    if asked.run_id is not null then
        if resume is null then
            select coalesce((e.output->'loop')::text, e.progress) into resume from executions e
            where e.run_id = asked.run_id and e.node_id = asked.node_id and e.kind = asked.kind and e.attempt < asked.attempt
              and coalesce((e.output->'loop')::text, e.progress) is not null
            order by e.attempt desc limit 1;
        end if;
        select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('n', a.n, 'tool', a.tool, 'digest', a.digest, 'decision', a.decision,
                                                              'comment', a.comment)) order by a.requested_at, a.n) into decided
        from approvals a
        where a.run_id = asked.run_id and a.node_id = asked.node_id and a.kind = 'tool' and a.decision <> 'cancelled';
        if prior_max_chars > 0 then
            -- The event within the payload; of one that was cut as a whole, what is left of it.
            select jsonb_agg(jsonb_build_object('kind', t.message, 'level', t.level, 'message', t.payload->'message',
                                                'payload', case when t.payload ? 'kind' then t.payload->'payload' else t.payload end)
                             order by t.seq) into prior
            from (select v.seq, v.message, v.level, v.payload, sum(length(v.payload::text)) over (order by v.seq desc) as chars
                  from workflow_run_events v
                  where v.run_id = asked.run_id and v.node_id = asked.node_id and v.event_type = 'remote_event'
                    and v.message in ('tool_call', 'tool_result')) t
            where t.chars <= prior_max_chars;
        end if;
    end if;
    return next;
end $$;

-- The tools that executors said they have, of those to which work of this organization with this selector may go: whether
-- they are connected now or not, for work can wait for them. The newest word on a tool counts.
create function vespid_x_reported_tools(org uuid, wanted_pool text, wanted_tags text[], executor uuid)
returns table (tool jsonb)
language sql stable security definer set search_path = pg_catalog, public as $$
    select distinct on (t.tool->>'id') t.tool
    from executors x, jsonb_array_elements(case when jsonb_typeof(x.capabilities->'tools') = 'array' then x.capabilities->'tools' end) t(tool)
    where ((wanted_pool = 'byon' and x.organization_id = org) or (wanted_pool = 'managed' and x.organization_id is null))
      and x.tags @> wanted_tags and (executor is null or x.id = executor) and x.revoked_at is null and x.enabled
    order by t.tool->>'id', x.last_seen_at desc nulls last
$$;

-- An executor gives work back that it has not begun, or the edge could not send it. items: [{request, executor, epoch?}]
--   → returned | fenced. Neither uses an attempt nor a placement.
create function vespid_x_return_executions(items jsonb[])
returns table (ord int, outcome text)
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        update executions e
        set state = 'pending', placements = greatest(e.placements - 1, 0), act_by = e.wait_until,
            sweep_at = least(e.wait_until, now() + interval '5 s')
        where e.request_id = items[ord]->>'request' and e.state in ('dispatched', 'received')
          and e.executor_id = (items[ord]->>'executor')::uuid
          and coalesce((items[ord]->>'epoch')::bigint, e.lease_epoch) = e.lease_epoch;
        outcome := case when found then 'returned' else 'fenced' end;
        return next;
    end loop;
end $$;

-- A run's node, or a dispatched request, waits: said once per reason. items: [{request, reason}] → noted | same
create function vespid_x_note_waiting(items jsonb[])
returns table (ord int, outcome text, run_id uuid, seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    waiting record;
    written record;
begin
    for i in 1 .. coalesce(array_length(items, 1), 0) loop
        ord := i;
        outcome := 'same'; run_id := null; seq := null;
        select e.run_id, e.organization_id, e.node_id, e.node_type, e.selector into waiting from executions e
        where e.request_id = items[ord]->>'request' and e.state = 'pending'
          and e.waiting_reason is distinct from items[ord]->>'reason';
        if found then
            outcome := 'noted';
            if waiting.run_id is not null then
                update workflow_runs r set event_seq = r.event_seq + 1 where r.id = waiting.run_id and r.finished_at is null
                returning r.event_seq, r.workflow_id, r.attempt_count into written;
                if found then
                    perform vespid_i_append_events(waiting.organization_id, written.workflow_id, waiting.run_id, written.attempt_count,
                        written.event_seq - 1, jsonb_build_array(jsonb_build_object('t', 'node_waiting', 'l', 'info', 'n', waiting.node_id,
                        'nt', waiting.node_type, 'p', jsonb_build_object('reason', items[ord]->>'reason', 'selector', coalesce(waiting.selector, '{}')))));
                    run_id := waiting.run_id; seq := written.event_seq;
                end if;
            end if;
            update executions e set waiting_reason = items[ord]->>'reason'
            where e.request_id = items[ord]->>'request' and e.state = 'pending';
        end if;
        return next;
    end loop;
end $$;

-- Ends one pending request with a refusal the scheduler found (onUnavailable: fail). → concluded | gone
create function vespid_x_refuse_execution(request text, code text, detail jsonb)
returns table (outcome text, organization_id uuid, run_id uuid)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    held executions := vespid_i_lock_execution(request);
begin
    outcome := 'gone'; organization_id := held.organization_id; run_id := held.run_id;
    if held.state = 'pending' then
        perform vespid_i_conclude(request, 'failed', code, detail);
        outcome := 'concluded';
    end if;
    return next;
end $$;

-- Somebody asks for the end of one request. → cancelled (it was pending) | cancelling (tell the holder) | finished | unknown
create function vespid_x_cancel_execution(request text)
returns table (outcome text, organization_id uuid, run_id uuid, executor_id uuid, holder_process uuid, lease_epoch bigint, edge_id uuid)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    held executions := vespid_i_lock_execution(request);
begin
    outcome := 'unknown';
    if held.request_id is not null then
        organization_id := held.organization_id; run_id := held.run_id; executor_id := held.executor_id;
        holder_process := held.holder_process; lease_epoch := held.lease_epoch;
        select x.edge_id into edge_id from executors x where x.id = held.executor_id;
        if held.finished_at is not null then
            outcome := 'finished';
        elsif held.state = 'pending' then
            perform vespid_i_conclude(request, 'cancelled', 'NODE_EXECUTION_CANCELLED');
            outcome := 'cancelled';
        else
            -- Asked again, it keeps its first deadline.
            update executions e set state = 'cancelling', act_by = now() + interval '10 s', sweep_at = now() + interval '10 s'
            where e.request_id = request and e.state in ('dispatched', 'received');
            outcome := 'cancelling';
        end if;
    end if;
    return next;
end $$;

-- What stands for a request, whoever asks inside the house.
create function vespid_x_read_execution(request text)
returns table (organization_id uuid, state text, output jsonb, error text, error_message text, finished_at timestamptz, applied boolean,
               executor_id uuid, lease_epoch bigint, act_by timestamptz)
language sql stable security definer set search_path = pg_catalog, public as $$
    select e.organization_id, e.state, e.output, e.error, e.error_message, e.finished_at, e.applied or e.run_id is null, e.executor_id,
           e.lease_epoch, e.act_by
    from executions e where e.request_id = request
$$;

-- Of these requests, the ones that are terminal.
create function vespid_x_read_ended(requests text[])
returns table (request_id text, state text, output jsonb, error text)
language sql stable security definer set search_path = pg_catalog, public as $$
    select e.request_id, e.state, e.output, e.error from executions e
    where e.request_id = any (requests) and e.finished_at is not null
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Executors and processes
-- ---------------------------------------------------------------------------------------------------------------

-- A process lives on for `lease_ms`. Answers whether its lease had not passed: a false one must drop its sockets.
create function vespid_x_renew_process(process uuid, process_kind text, at_address text, lease_ms int) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    alive boolean;
begin
    select p.lease_until > now() into alive from processes p where p.id = process;
    insert into processes (id, kind, address, lease_until)
    values (process, process_kind, at_address, now() + lease_ms * interval '1 ms')
    on conflict (id) do update set lease_until = excluded.lease_until, renewed_at = now(), address = excluded.address;
    return coalesce(alive, false);
end $$;

-- A process ends in order: what it held is lost now, not when its lease passes.
create function vespid_x_end_process(process uuid, agent_lease_ms int) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update executors x set lost_at = now(), last_seen_at = now(), leases_expire_at = now() + agent_lease_ms * interval '1 ms'
    where x.edge_id = process and x.lost_at is null;
    delete from processes p where p.id = process;
end $$;

create function vespid_x_authenticate_executor(token bytea)
returns table (executor_id uuid, organization_id uuid, revoked boolean, name text, max_in_flight int, token_left_ms bigint)
language sql stable security definer set search_path = pg_catalog, public as $$
    select x.id, x.organization_id, x.revoked_at is not null or not x.enabled, x.name, x.max_in_flight,
           case when x.token_sha256 <> token then greatest(0, extract(epoch from x.previous_token_until - now()) * 1000)::bigint end
    from executors x
    where x.token_sha256 = token or (x.previous_token_sha256 = token and x.previous_token_until > now())
$$;

-- A new socket of an executor: the epoch grows, and whatever held the old one is superseded.
create function vespid_x_connect_executor(executor uuid, edge uuid)
returns table (connection_epoch bigint, organization_id uuid, tags text[], tags_version bigint, cordoned boolean, max_in_flight int,
               previous_edge uuid, previous_instance text, journal_id text)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    before record;
begin
    select x.edge_id, x.instance_id, x.lost_at, x.journal_id into before from executors x
    where x.id = executor and x.revoked_at is null and x.enabled for no key update;
    if not found then
        return;
    end if;
    return query
    update executors x
    set connection_epoch = x.connection_epoch + 1, edge_id = edge, connected_at = null, last_seen_at = now(),
        lost_at = null, leases_expire_at = null, draining = false
    where x.id = executor
    returning x.connection_epoch, x.organization_id, x.tags, x.tags_version, x.cordoned, x.max_in_flight,
              case when before.lost_at is null then before.edge_id end, before.instance_id, before.journal_id;
end $$;

-- The hello of a connection: what the agent can do, and what it says it has in flight, against what we hold for it.
-- hello: {connectionEpoch, agentVersion, name, kinds?, connectors?, engines?, backends?, reportedTags, maxInFlight?, protocolVersion,
--         instanceId?, journalId?, capabilities, inFlight: [{requestId, leaseEpoch}], unacked: [requestId…]}
-- One row per lease of ours, and one ('foreign') per listed request that is not its own any more:
--   continues (it has it) | resend (send `execute` again, same epoch) | waits (a result is announced in unacked)
--   | reoffer | concluded (lost: another journal, or received but omitted) | cancelling (tell it again) | foreign (tell it to stop)
--   | stale (alone: a newer connection stands, or the executor is revoked)
-- With `inFlight` null nothing is compared: the connection has not been interrupted, so nothing can have been lost on it.
create function vespid_x_hello_executor(executor uuid, hello jsonb)
returns table (request_id text, action text, lease_epoch bigint, organization_id uuid, run_id uuid, workflow_id uuid, node_id text,
               node_type text, attempt int, kind text, requested_by_user_id uuid, payload jsonb, secret_refs jsonb, timeout_ms int,
               remaining_ms bigint, on_lost text, last_event_seq bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    base_only boolean := coalesce((hello->>'protocolVersion')::int, 1) < 2;
    same_journal boolean;
    held record;
    lost text;
    listed jsonb := coalesce(hello->'inFlight', '[]');
begin
    select x.journal_id is not distinct from hello->>'journalId' into same_journal from executors x
    where x.id = executor and x.connection_epoch = (hello->>'connectionEpoch')::bigint and x.revoked_at is null and x.enabled
    for no key update;
    if not found then
        request_id := ''; action := 'stale';
        return next;
        return;
    end if;
    update executors x
    set agent_version = hello->>'agentVersion', journal_id = hello->>'journalId', instance_id = hello->>'instanceId',
        protocol_version = coalesce((hello->>'protocolVersion')::int, 1), capabilities = coalesce(hello->'capabilities', '{}'),
        kinds = (select array_agg(v) from jsonb_array_elements_text(nullif(hello->'kinds', 'null'::jsonb)) v),
        connectors = (select array_agg(v) from jsonb_array_elements_text(nullif(hello->'connectors', 'null'::jsonb)) v),
        engines = (select array_agg(v) from jsonb_array_elements_text(nullif(hello->'engines', 'null'::jsonb)) v),
        -- An agent without any sandbox says so with an empty list, which is not the same as not saying.
        backends = case when jsonb_typeof(hello->'backends') = 'array' then array(select jsonb_array_elements_text(hello->'backends')) end,
        reported_tags = coalesce((select array_agg(v) from jsonb_array_elements_text(nullif(hello->'reportedTags', 'null'::jsonb)) v), '{}'),
        max_in_flight = coalesce((hello->>'maxInFlight')::int, x.max_in_flight)
    where x.id = executor;
    if hello->'inFlight' = 'null' then
        return;
    end if;
    for held in
        select e.request_id, e.state, e.lease_epoch, e.organization_id, e.run_id, e.workflow_id, e.node_id, e.node_type, e.attempt, e.kind,
               e.requested_by_user_id, e.payload, e.secret_refs, e.timeout_ms, e.on_lost, e.last_event_seq,
               greatest(0, extract(epoch from e.act_by - now()) * 1000 - 5000)::bigint as remaining_ms,
               exists (select 1 from jsonb_array_elements(listed) i where i->>'requestId' = e.request_id
                       and coalesce((i->>'leaseEpoch')::bigint, e.lease_epoch) = e.lease_epoch) as has,
               coalesce(hello->'unacked', '[]') ? e.request_id as announced
        from executions e where e.executor_id = executor and e.finished_at is null and e.lease_epoch > 0
        order by e.run_id, e.request_id
    loop
        request_id := held.request_id; lease_epoch := held.lease_epoch; organization_id := held.organization_id; run_id := held.run_id;
        workflow_id := held.workflow_id; node_id := held.node_id; node_type := held.node_type; attempt := held.attempt; kind := held.kind;
        requested_by_user_id := held.requested_by_user_id; payload := null; secret_refs := held.secret_refs; timeout_ms := held.timeout_ms;
        remaining_ms := held.remaining_ms; on_lost := held.on_lost; last_event_seq := held.last_event_seq;
        if held.announced and held.state <> 'dispatched' then
            action := 'waits';
        elsif held.state = 'cancelling' and same_journal then
            action := 'cancelling';
        elsif held.state = 'pending' then
            -- Its lease is over, but nobody else has it yet: the scheduler goes on, a late result is still good.
            continue;
        elsif held.has then
            action := 'continues';
            if held.state = 'dispatched' then
                update executions e set state = 'received' where e.request_id = held.request_id and e.state = 'dispatched';
            end if;
        elsif base_only then
            action := 'continues';  -- it cannot list; its own silence or its result decides
        elsif held.state = 'dispatched' and (same_journal or held.announced) then
            -- It has not got it under this lease; one that has a result of it already answers from its journal.
            action := 'resend';
            payload := held.payload;
        else
            lost := vespid_i_lose_lease(held.request_id, held.lease_epoch, not same_journal);
            action := case when lost = 'kept' then 'continues' else lost end;
        end if;
        return next;
    end loop;
    for held in
        select i->>'requestId' as request_id, (i->>'leaseEpoch')::bigint as lease_epoch from jsonb_array_elements(listed) i
        where not exists (select 1 from executions e where e.request_id = i->>'requestId' and e.executor_id = executor
                          and e.finished_at is null and coalesce((i->>'leaseEpoch')::bigint, e.lease_epoch) = e.lease_epoch)
    loop
        request_id := held.request_id; lease_epoch := held.lease_epoch; action := 'foreign'; payload := null; secret_refs := null;
        organization_id := null; run_id := null; workflow_id := null; node_id := null; node_type := null; attempt := null; kind := null;
        requested_by_user_id := null; timeout_ms := null; remaining_ms := null; on_lost := null; last_event_seq := null;
        return next;
    end loop;
end $$;

-- Its edge has registered it and told Redis: from here on it may be chosen, and people see it online.
create function vespid_x_announce_executor(executor uuid, epoch bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update executors x set connected_at = now()
    where x.id = executor and x.connection_epoch = epoch and x.lost_at is null and x.connected_at is null;
    return found;
end $$;

-- A socket closed, or went silent. An old connection's late close changes nothing. → true: it was the newest
create function vespid_x_disconnect_executor(executor uuid, epoch bigint, agent_lease_ms int) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update executors x set lost_at = now(), last_seen_at = now(), leases_expire_at = now() + agent_lease_ms * interval '1 ms'
    where x.id = executor and x.connection_epoch = epoch and x.lost_at is null;
    return found;
end $$;

-- Revoked, disabled or deleted.
create function vespid_x_is_revoked(executor uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, public as $$
    select not exists (select from executors x where x.id = executor and x.revoked_at is null and x.enabled)
$$;

create function vespid_x_set_draining(executor uuid, epoch bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update executors x set draining = true where x.id = executor and x.connection_epoch = epoch;
    return found;
end $$;

-- After a revoke: every lease of the executor is lost at once. → what became of each
create function vespid_x_revoke_leases(executor uuid)
returns table (request_id text, action text, organization_id uuid, run_id uuid)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    held record;
begin
    perform 1 from executors x where x.id = executor and x.revoked_at is not null;
    if not found then
        return;
    end if;
    for held in
        select e.request_id, e.organization_id, e.run_id, e.lease_epoch from executions e
        where e.executor_id = executor and e.finished_at is null and e.state <> 'pending' order by e.run_id, e.request_id
    loop
        request_id := held.request_id; organization_id := held.organization_id; run_id := held.run_id;
        action := vespid_i_lose_lease(held.request_id, held.lease_epoch, true);
        return next;
    end loop;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Sweeps: what a lost notification left behind
-- ---------------------------------------------------------------------------------------------------------------

-- Executions whose time has come. → offer (still pending: offer it again) | concluded | deleted | later
create function vespid_x_sweep_executions(most int)
returns table (request_id text, action text, organization_id uuid, run_id uuid, executor_id uuid, holder_process uuid, lease_epoch bigint,
               state_before text, placement text)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    candidate record;
    held record;
    code text;
begin
    for candidate in
        select e.request_id, e.run_id from executions e where e.sweep_at <= now() order by e.sweep_at limit most
    loop
        if candidate.run_id is not null then
            perform 1 from workflow_runs r where r.id = candidate.run_id for no key update skip locked;
            continue when not found;
        end if;
        select e.* into held from executions e where e.request_id = candidate.request_id and e.sweep_at <= now()
        for no key update skip locked;
        continue when not found;
        request_id := held.request_id; organization_id := held.organization_id; run_id := held.run_id; executor_id := held.executor_id;
        holder_process := held.holder_process; lease_epoch := held.lease_epoch; state_before := held.state; placement := held.placement;
        if held.finished_at is not null then
            if held.run_id is null then
                delete from executions e where e.request_id = held.request_id;
                action := 'deleted';
            else
                update executions e set sweep_at = null where e.request_id = held.request_id;
                action := 'later';
            end if;
        elsif held.act_by <= now() and held.placement = 'person' then
            perform vespid_i_end_approval(held.request_id);
            action := 'concluded';
        elsif held.act_by <= now() then
            code := case held.state when 'pending' then 'NO_AGENT_AVAILABLE' when 'cancelling' then 'NODE_EXECUTION_CANCELLED'
                    else 'NODE_EXECUTION_TIMEOUT' end;
            if held.state in ('dispatched', 'received') and exists (select 1 from executors x where x.id = held.executor_id and x.lost_at is not null) then
                code := 'AGENT_DISCONNECTED';
            end if;
            perform vespid_i_conclude(held.request_id, case when held.state = 'cancelling' then 'cancelled' else 'failed' end, code,
                case when held.state = 'pending' then jsonb_build_object('reason', coalesce(held.waiting_reason, 'NONE_CONNECTED')) end);
            action := 'concluded';
        elsif held.state = 'pending' and held.placement <> 'person' then
            update executions e set sweep_at = least(held.act_by, now() + interval '10 s') where e.request_id = held.request_id;
            action := 'offer';
        else
            update executions e set sweep_at = held.act_by where e.request_id = held.request_id;
            action := 'later';
        end if;
        return next;
    end loop;
end $$;

-- What the scheduler needs to offer a pending request again.
create function vespid_x_read_pending(requests text[])
returns table (request_id text, organization_id uuid, run_id uuid, kind text, pool text, requirement jsonb, pin_executor_id uuid,
               priority int, on_unavailable text, executor_id uuid, created_at timestamptz)
language sql stable security definer set search_path = pg_catalog, public as $$
    select e.request_id, e.organization_id, e.run_id, e.kind, e.pool, e.requirement, e.pin_executor_id, e.priority, e.on_unavailable,
           e.executor_id, e.created_at
    from executions e where e.request_id = any (requests) and e.state = 'pending' and e.placement = 'executor'
$$;

-- Processes whose lease has passed, and what they held → dead (a process) | away (an executor whose socket it had)
--   | reoffer, concluded, kept (work of its own)
create function vespid_x_sweep_processes(agent_lease_ms int)
returns table (process_id uuid, request_id text, action text, organization_id uuid, run_id uuid, executor_id uuid, connection_epoch bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    dead record;
    held record;
begin
    for dead in delete from processes p where p.lease_until < now() returning p.id, p.lease_until loop
        process_id := dead.id; request_id := null; action := 'dead'; organization_id := null; run_id := null;
        executor_id := null; connection_epoch := null;
        return next;
        action := 'away';
        for executor_id, organization_id, connection_epoch in
            update executors x set lost_at = dead.lease_until, leases_expire_at = dead.lease_until + agent_lease_ms * interval '1 ms'
            where x.edge_id = dead.id and x.lost_at is null
            returning x.id, x.organization_id, x.connection_epoch
        loop
            return next;
        end loop;
    end loop;
    executor_id := null; connection_epoch := null;
    for held in
        select e.request_id, e.organization_id, e.run_id, e.holder_process, e.lease_epoch from executions e
        where e.finished_at is null and e.holder_process is not null and e.state <> 'pending'
          and not exists (select 1 from processes p where p.id = e.holder_process)
        order by e.run_id, e.request_id limit 500
    loop
        process_id := held.holder_process; request_id := held.request_id; organization_id := held.organization_id; run_id := held.run_id;
        action := vespid_i_lose_lease(held.request_id, held.lease_epoch, true);
        return next;
    end loop;
end $$;

-- Lost executors whose leases are over.
create function vespid_x_sweep_leases(most int)
returns table (executor_id uuid, request_id text, action text, organization_id uuid, run_id uuid)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    lost record;
    held record;
begin
    for lost in
        select x.id, x.revoked_at from executors x where x.leases_expire_at <= now() order by x.leases_expire_at limit most
        for no key update skip locked
    loop
        for held in
            select e.request_id, e.organization_id, e.run_id, e.lease_epoch from executions e
            where e.executor_id = lost.id and e.finished_at is null and e.state <> 'pending' order by e.run_id, e.request_id
        loop
            executor_id := lost.id; request_id := held.request_id; organization_id := held.organization_id; run_id := held.run_id;
            action := vespid_i_lose_lease(held.request_id, held.lease_epoch, lost.revoked_at is not null);
            return next;
        end loop;
        update executors x set leases_expire_at = null where x.id = lost.id;
    end loop;
end $$;

-- Runs that are due. Their due time moves on a little, so that several sweepers share them; only a step clears it.
create function vespid_x_due_runs(most int)
returns table (run_id uuid, organization_id uuid)
language sql security definer set search_path = pg_catalog, public as $$
    with due as (
        select d.run_id from due_runs d where d.due_at <= now() order by d.due_at limit most for update skip locked
    )
    update due_runs d set due_at = now() + interval '5 s' from due where d.run_id = due.run_id
    returning d.run_id, d.organization_id
$$;

-- Leases as Postgres knows them: what the soft state in Redis is rebuilt from, and compared with.
create function vespid_x_live_leases(after_request text, most int)
returns table (request_id text, organization_id uuid, pool text, executor_id uuid, state text)
language sql stable security definer set search_path = pg_catalog, public as $$
    select e.request_id, e.organization_id, e.pool, e.executor_id, e.state from executions e
    where e.finished_at is null and e.placement = 'executor' and e.state <> 'pending' and e.request_id > after_request
    order by e.request_id limit most
$$;

create function vespid_x_read_feed(since bigint, window_ms int)
returns table (id bigint, organization_id uuid, kind text, subject_id text, payload jsonb)
language sql stable security definer set search_path = pg_catalog, public as $$
    select f.id, f.organization_id, f.kind, f.subject_id, f.payload from control_feed f
    where f.id > since or f.created_at > clock_timestamp() - window_ms * interval '1 ms' order by f.id
$$;

create function vespid_x_trim_feed() returns void
language sql security definer set search_path = pg_catalog, public as $$
    delete from control_feed f where f.created_at < now() - interval '1 hour'
$$;

create function vespid_x_due_schedules(most int)
returns table (family_id uuid, organization_id uuid, workflow_id uuid, cron text, timezone text, next_fire_at timestamptz, user_id uuid)
language sql stable security definer set search_path = pg_catalog, public as $$
    select s.family_id, s.organization_id, s.workflow_id, s.cron, s.timezone, s.next_fire_at, s.user_id
    from schedules s where s.next_fire_at <= now() order by s.next_fire_at limit most
$$;

-- One firing of a schedule: the time moves on and the run stands in the same commit, so each fires once, whoever asks.
create function vespid_fire_schedule(org uuid, family uuid, fired_at timestamptz, next_at timestamptz, run jsonb) returns text
language plpgsql as $$
declare
    answer text;
begin
    perform set_config('app.current_org_id', org::text, true);
    update schedules s set next_fire_at = coalesce(next_at, 'infinity')
    where s.family_id = family and s.organization_id = org and s.next_fire_at = fired_at;
    if not found then
        return 'taken';
    end if;
    select c.outcome into answer from vespid_create_runs(array[run]) c;
    return answer;
end $$;

-- Partitions of the event history, one a month, made ahead of time. Runs as the owner of the table.
create function vespid_x_ensure_event_partitions(months_ahead int) returns int
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    month date := date_trunc('month', now())::date;
    made int := 0;
    name text;
    lower_bound uuid;
    upper_bound uuid;
begin
    for i in 0 .. months_ahead loop
        name := 'workflow_run_events_' || to_char(month, 'YYYYMM');
        lower_bound := (rpad(lpad(to_hex((extract(epoch from month) * 1000)::bigint), 12, '0'), 32, '0'))::uuid;
        upper_bound := (rpad(lpad(to_hex((extract(epoch from month + interval '1 month') * 1000)::bigint), 12, '0'), 32, '0'))::uuid;
        if to_regclass('public.' || name) is null then
            execute format('create table public.%I partition of public.workflow_run_events for values from (%L) to (%L)',
                           name, lower_bound, upper_bound);
            perform vespid_tenant_table(name);
            execute format('revoke all on public.%I from vespid_service', name);
            made := made + 1;
        end if;
        month := (month + interval '1 month')::date;
    end loop;
    return made;
end $$;

select vespid_x_ensure_event_partitions(3);

-- Whoever may call them, and as whom they run. All functions of this step are the ones that take none of the earlier names.
do $$
declare
    fn record;
begin
    for fn in
        select p.oid::regprocedure as signature, p.proname as name from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proowner = current_user::regrole
          and p.proname = any (array[
            'vespid_create_runs', 'vespid_apply_steps', 'vespid_step_failed', 'vespid_cancel_run', 'vespid_load_run', 'vespid_fire_schedule'])
           or p.pronamespace = 'public'::regnamespace and p.proname like 'vespid\_i\_%'
           or p.pronamespace = 'public'::regnamespace and p.proname like 'vespid\_x\_%' and p.proowner = current_user::regrole
    loop
        execute format('revoke all on function %s from public', fn.signature);
        execute format('grant execute on function %s to vespid_service, vespid_cross', fn.signature);
        if fn.name like 'vespid\_x\_%' and fn.name <> 'vespid_x_ensure_event_partitions' then
            perform vespid_cross_function(fn.signature::text);
        end if;
    end loop;
end $$;
