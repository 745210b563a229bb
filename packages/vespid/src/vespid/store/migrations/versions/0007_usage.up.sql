-- What models took: one row for each try of a node or a turn whose result told it.
--
-- A row is written by the statement that commits the result (store/queries/executions.sql and turns.sql call these
-- functions beside the ones of 0003 and 0005), and only where that result counts: so a result is counted once, however
-- often it is delivered, and one that is fenced off is not counted at all.

create table model_usage (
    request_id      vespid_request_id not null,
    requested_at    timestamptz not null,               -- of the execution or turn: an id may be used anew when its row is gone
    organization_id uuid not null references organizations (id) on delete cascade,
    recorded_at     timestamptz(3) not null default clock_timestamp(),
    run_id          uuid,                               -- no reference: what was paid for stays when the run goes
    workflow_id     uuid,
    node_id         text,
    attempt         int,
    session_id      uuid,
    turn_seq        bigint,                             -- seq of the message that was answered
    executor_id     uuid,                               -- null: the server itself
    engine_id       text,
    provider        text not null,
    model           text not null,
    input_tokens    bigint not null check (input_tokens >= 0),
    output_tokens   bigint not null check (output_tokens >= 0),
    total_tokens    bigint not null check (total_tokens >= 0),
    cost_micros     bigint check (cost_micros >= 0),    -- millionths of a US dollar at the price of that moment; null: nobody knows
    primary key (request_id, requested_at)
);
create index model_usage_by_time on model_usage (organization_id, recorded_at);
create index model_usage_of_run on model_usage (organization_id, run_id) where run_id is not null;
select vespid_tenant_table('model_usage', 'select');
grant select, insert on model_usage to vespid_cross;

-- usage: vespid.store.usage.UsageItem. → whether it was written; not where it stands already
create function vespid_i_record_usage(told model_usage, usage jsonb) returns boolean
language plpgsql as $$
begin
    insert into model_usage (request_id, requested_at, organization_id, run_id, workflow_id, node_id, attempt, session_id, turn_seq,
                             executor_id, engine_id, provider, model, input_tokens, output_tokens, total_tokens, cost_micros)
    values (told.request_id, told.requested_at, told.organization_id, told.run_id, told.workflow_id, told.node_id, told.attempt,
            told.session_id, told.turn_seq, told.executor_id, usage->>'engineId', usage->>'provider', usage->>'model',
            (usage->>'inputTokens')::bigint, (usage->>'outputTokens')::bigint, (usage->>'totalTokens')::bigint,
            (usage->>'costMicros')::bigint)
    on conflict do nothing;
    return found;
end $$;

-- Of one result that vespid_x_finish_executions has just committed: item as there, with `usage`.
create function vespid_x_record_usage(item jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    told model_usage;
begin
    select e.request_id, e.created_at, e.organization_id, e.run_id, e.workflow_id, e.node_id, e.attempt, e.executor_id
    into told.request_id, told.requested_at, told.organization_id, told.run_id, told.workflow_id, told.node_id, told.attempt, told.executor_id
    from executions e where e.request_id = item->>'request' and e.kind = 'agent.run' and e.finished_at is not null;
    return found and vespid_i_record_usage(told, item->'usage');
end $$;

-- Of one end that vespid_x_finish_turns has just committed: item as there, with `usage`.
create function vespid_x_record_turn_usage(item jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    told model_usage;
begin
    select vespid_i_turn_request(t.session_id, t.user_seq, t.turn_epoch), t.created_at, t.organization_id, t.session_id, t.user_seq,
           (item->>'executor')::uuid
    into told.request_id, told.requested_at, told.organization_id, told.session_id, told.turn_seq, told.executor_id
    from session_turns t
    where t.session_id = (item->>'session')::uuid and t.user_seq = (item->>'seq')::bigint and t.turn_epoch = (item->>'epoch')::int
      and t.finished_at is not null;
    return found and vespid_i_record_usage(told, item->'usage');
end $$;

revoke all on function vespid_i_record_usage from public;
grant execute on function vespid_i_record_usage to vespid_service, vespid_cross;
select vespid_cross_function('vespid_x_record_usage(jsonb)');
select vespid_cross_function('vespid_x_record_turn_usage(jsonb)');
