-- Approvals: what people are asked to allow. The wait itself is an execution of placement person, which nobody leases:
-- what ends it is the last decision, its time, or its run. Each question is a row here, decided by itself.

create table approvals (
    id                    uuid primary key,       -- of version 7: newest is greatest
    organization_id       uuid not null,
    request_id            vespid_request_id not null,   -- the execution by which the run waits
    run_id                uuid not null,
    workflow_id           uuid not null,
    node_id               text not null,
    node_type             text not null,
    kind                  text not null check (kind in ('node', 'tool')),
    n                     int,                    -- of a tool's call: its place, its tool, the digest of its arguments
    tool                  text,
    digest                text,
    by_role               text not null check (by_role in ('owner', 'admin', 'member')),
    what                  text not null,          -- canonical JSON; text, for jsonb would spell numbers its own way
    hash                  text not null check (hash ~ '^[0-9a-f]{64}$'),
    requested_by_user_id  uuid,                   -- in whose name the run runs
    requested_at          timestamptz not null default now(),
    expires_at            timestamptz not null,
    decision              text check (decision in ('approved', 'denied', 'expired', 'cancelled')),
    decided_by_user_id    uuid,
    decided_by_api_key_id uuid,
    comment               text,
    decided_at            timestamptz,
    check ((decision is null) = (decided_at is null)),
    foreign key (organization_id, run_id) references workflow_runs (organization_id, id) on delete cascade
);
create index approvals_of_organization on approvals (organization_id, id desc);
create index approvals_pending on approvals (organization_id, id desc) where decision is null;
create index approvals_of_run on approvals (run_id, id desc);
create index approvals_of_request on approvals (request_id);
select vespid_tenant_table('approvals', 'select, insert, update');
grant select, insert, update on approvals to vespid_cross;

-- The questions of an execution that was just inserted.
create function vespid_i_ask_people(org uuid, item jsonb) returns void
language plpgsql as $$
begin
    insert into approvals (id, organization_id, request_id, run_id, workflow_id, node_id, node_type, kind, n, tool, digest, by_role, what, hash,
                           requested_by_user_id, expires_at)
    select (a->>'id')::uuid, org, item->>'requestId', (item->>'runId')::uuid, (item->>'workflowId')::uuid, item->>'nodeId', item->>'nodeType',
           a->>'kind', (a->>'n')::int, a->>'tool', a->>'digest', a->>'by', a->>'what', a->>'hash',
           (item->>'userId')::uuid, now() + (a->>'timeoutMs')::bigint * interval '1 ms'
    from jsonb_array_elements(item->'asks') a;
end $$;

-- What nobody has to decide any more: of one request, or of the whole run. The caller has locked the run.
create function vespid_i_withdraw_approvals(run uuid, request text default null) returns void
language plpgsql as $$
begin
    update approvals a set decision = 'cancelled', decided_at = clock_timestamp()
    where a.run_id = run and a.decision is null and (request is null or a.request_id = request);
end $$;

-- Ends an execution that waits for people with what they decided; what they did not has expired, and is told so to the
-- run's history. The caller has locked it (vespid_i_lock_execution). A worker goes on from there.
create function vespid_i_end_approval(request text) returns void
language plpgsql as $$
declare
    lapsed jsonb;
    answer jsonb;
    target record;
    written record;
    count int;
begin
    with expired as (
        update approvals a set decision = 'expired', decided_at = clock_timestamp()
        where a.request_id = request and a.decision is null
        returning a.*
    )
    select coalesce(jsonb_agg(jsonb_build_object('t', 'approval_decided', 'l', 'warn', 'n', x.node_id, 'nt', x.node_type, 'm', 'expired', 'p',
               jsonb_strip_nulls(jsonb_build_object('approvalId', x.id, 'requestId', request, 'kind', x.kind, 'n', x.n, 'tool', x.tool,
                                                    'decision', 'expired', 'hash', x.hash))) order by x.id), '[]')
    into lapsed from expired x;
    count := jsonb_array_length(lapsed);
    select jsonb_build_object('kind', min(a.kind), 'decided', jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'id', a.id, 'hash', a.hash, 'decision', a.decision, 'comment', a.comment, 'n', a.n, 'tool', a.tool, 'userId', a.decided_by_user_id,
               'apiKeyId', a.decided_by_api_key_id)) order by a.n, a.id))
    into answer from approvals a where a.request_id = request;
    update executions e
    set state = case when count > 0 then 'failed' else 'succeeded' end, error = case when count > 0 then 'APPROVAL_EXPIRED' end,
        output = answer, finished_at = clock_timestamp(), sweep_at = null
    where e.request_id = request and e.finished_at is null
    returning e.run_id, e.organization_id into target;
    if not found then
        return;
    end if;
    update workflow_runs r set version = r.version + 1, event_seq = r.event_seq + count
    where r.id = target.run_id and r.finished_at is null
    returning r.event_seq, r.workflow_id, r.attempt_count into written;
    if found then
        if count > 0 then
            perform vespid_i_append_events(target.organization_id, written.workflow_id, target.run_id, written.attempt_count,
                                           written.event_seq - count, lapsed);
        end if;
        perform vespid_i_make_due(target.organization_id, target.run_id, now());
    end if;
end $$;

-- What somebody is in the organization at this moment, and until the caller's transaction ends: a removal or a lowering
-- of the role waits for it, and after one this sees it. With a key, the lesser of the key and its maker. Null: nobody.
create function vespid_i_role_of(org uuid, person uuid, key uuid) returns text
language plpgsql as $$
declare
    ranks constant text[] := array['member', 'admin', 'owner'];
    standing text;
    of_key text;
begin
    select m.role into standing from memberships m where m.organization_id = org and m.user_id = person for share;
    if not found or key is null then
        return standing;
    end if;
    select k.role into of_key from api_keys k
    where k.id = key and k.organization_id = org and k.revoked_at is null and (k.expires_at is null or k.expires_at > now()) for share;
    if not found then
        return null;
    end if;
    return ranks[least(array_position(ranks, standing), array_position(ranks, of_key))];
end $$;

-- One person decides one question, about the very thing that they saw (`seen_hash`). The last decision of a request ends
-- its wait. → decided | not_found | forbidden | other_hash | late (it was decided, has expired, or its run needs it no more)
create function vespid_decide_approval(org uuid, approval uuid, person uuid, key uuid, verdict text, seen_hash text, remark text) returns text
language plpgsql as $$
declare
    ranks constant text[] := array['member', 'admin', 'owner'];
    standing text;
    asked record;
    held executions;
    written record;
    open_until timestamptz;
begin
    perform set_config('app.current_org_id', org::text, true);
    select a.request_id, a.by_role into asked from approvals a where a.id = approval and a.organization_id = org;
    if not found then
        return 'not_found';
    end if;
    standing := vespid_i_role_of(org, person, key);
    if standing is null or array_position(ranks, standing) < array_position(ranks, asked.by_role) then
        return 'forbidden';
    end if;
    held := vespid_i_lock_execution(asked.request_id);
    select a.* into asked from approvals a where a.id = approval for no key update;
    if asked.hash <> seen_hash then
        return 'other_hash';
    end if;
    if asked.decision is not null or asked.expires_at <= clock_timestamp() or held.finished_at is not null then
        return 'late';
    end if;
    update approvals a
    set decision = verdict, decided_by_user_id = person, decided_by_api_key_id = key, comment = remark, decided_at = clock_timestamp()
    where a.id = approval;
    update workflow_runs r set event_seq = r.event_seq + 1 where r.id = asked.run_id and r.finished_at is null
    returning r.event_seq, r.workflow_id, r.attempt_count into written;
    if found then
        perform vespid_i_append_events(org, written.workflow_id, asked.run_id, written.attempt_count, written.event_seq - 1,
            jsonb_build_array(jsonb_build_object('t', 'approval_decided', 'l', case when verdict = 'approved' then 'info' else 'warn' end,
                'n', asked.node_id, 'nt', asked.node_type, 'm', verdict,
                'p', jsonb_strip_nulls(jsonb_build_object('approvalId', asked.id, 'requestId', asked.request_id, 'kind', asked.kind, 'n', asked.n,
                    'tool', asked.tool, 'decision', verdict, 'comment', remark, 'hash', asked.hash, 'userId', person, 'apiKeyId', key)))));
    end if;
    select max(a.expires_at) into open_until from approvals a
    where a.request_id = asked.request_id and a.decision is null and a.expires_at > clock_timestamp();
    if open_until is null then
        perform vespid_i_end_approval(asked.request_id);
    else
        update executions e set act_by = open_until, sweep_at = open_until where e.request_id = asked.request_id;
    end if;
    return 'decided';
end $$;

do $$
declare
    fn record;
begin
    for fn in
        select p.oid::regprocedure as signature from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proowner = current_user::regrole
          and p.proname = any (array['vespid_i_ask_people', 'vespid_i_withdraw_approvals', 'vespid_i_end_approval', 'vespid_i_role_of',
                                     'vespid_decide_approval'])
    loop
        execute format('revoke all on function %s from public', fn.signature);
        execute format('grant execute on function %s to vespid_service, vespid_cross', fn.signature);
    end loop;
end $$;
