-- How executors come to be: pairing tokens for an organization's own, and issued credentials for the managed pool.

create table pairing_tokens (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    token_sha256 bytea not null unique check (octet_length(token_sha256) = 32),
    created_by_user_id uuid references users (id) on delete set null,
    created_at timestamptz(3) not null default now(),
    expires_at timestamptz(3) not null,
    used_at timestamptz(3),
    -- The executor that it has become.
    executor_id uuid,
    unique (organization_id, id),
    check ((used_at is null) = (executor_id is null)),
    foreign key (organization_id, executor_id) references executors (organization_id, id)
);
select vespid_tenant_table('pairing_tokens');

-- What an operator says of a managed executor; nothing routes by it.
alter table executors add column runtime_class text;
alter table executors add column region text;

-- Cross-tenant: managed executors belong to no organization. The token is the caller's; only its hash comes here.
create function vespid_x_issue_managed_executor(p_id uuid, p_token_sha256 bytea, p_spec jsonb) returns void
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    insert into executors (
        id, organization_id, name, token_sha256, tags, max_in_flight, capabilities, kinds, connectors, engines,
        reported_tags, runtime_class, region
    ) values (
        p_id, null, p_spec->>'name', p_token_sha256,
        coalesce((select array_agg(v) from jsonb_array_elements_text(p_spec->'labels') v), '{}'),
        coalesce((p_spec->>'maxInFlight')::integer, 10),
        coalesce(p_spec->'capabilities', '{}'),
        (select array_agg(v) from jsonb_array_elements_text(p_spec->'kinds') v),
        (select array_agg(v) from jsonb_array_elements_text(p_spec->'connectors') v),
        (select array_agg(v) from jsonb_array_elements_text(p_spec->'engines') v),
        coalesce((select array_agg(v) from jsonb_array_elements_text(p_spec->'reportedTags') v), '{}'),
        p_spec->>'runtimeClass', p_spec->>'region'
    )
$$;

-- Cross-tenant: the managed executors, newest first, with what they hold over all organizations and when the
-- process that has their socket last renewed its lease.
create function vespid_x_list_managed_executors(p_before uuid, p_limit integer)
returns table (executor jsonb, in_flight bigint, edge_renewed_at timestamptz)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select to_jsonb(x) - array['token_sha256', 'previous_token_sha256', 'previous_token_until', 'capabilities'],
        (select count(*) from executions e
         where e.executor_id = x.id and e.finished_at is null and e.state <> 'pending'),
        case when x.lost_at is null then p.renewed_at end
    from executors x
    left join processes p on p.id = x.edge_id
    where x.organization_id is null and (p_before is null or x.id < p_before)
    order by x.id desc
    limit p_limit
$$;

-- Cross-tenant: drains (no new work, what it has goes on) or disables (not let in) a managed executor. A null leaves
-- what is there. The feed's row is part of the change.
create function vespid_x_change_managed_executor(p_id uuid, p_drain boolean, p_enabled boolean) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    changed record;
begin
    update executors x set cordoned = coalesce(p_drain, x.cordoned), enabled = coalesce(p_enabled, x.enabled)
    where x.id = p_id and x.organization_id is null and x.revoked_at is null
    returning x.cordoned, x.enabled into changed;
    if not found then
        return false;
    end if;
    if p_drain is not null then
        insert into control_feed (organization_id, kind, subject_id)
        values (null, case when changed.cordoned then 'executor_cordoned' else 'executor_uncordoned' end, p_id::text);
    end if;
    if p_enabled is not null then
        insert into control_feed (organization_id, kind, subject_id)
        values (null, case when changed.enabled then 'executor_enabled' else 'executor_disabled' end, p_id::text);
    end if;
    return true;
end $$;

-- Cross-tenant: revokes a managed executor, for good. Revoking twice is one revoke.
create function vespid_x_revoke_managed_executor(p_id uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    perform from executors x where x.id = p_id and x.organization_id is null for no key update;
    if not found then
        return false;
    end if;
    update executors x set revoked_at = now(), previous_token_sha256 = null, previous_token_until = null
    where x.id = p_id and x.revoked_at is null;
    if found then
        insert into control_feed (organization_id, kind, subject_id) values (null, 'executor_revoked', p_id::text);
    end if;
    return true;
end $$;

do $$
declare
    signature text;
begin
    foreach signature in array array[
        'vespid_x_issue_managed_executor(uuid, bytea, jsonb)',
        'vespid_x_list_managed_executors(uuid, integer)',
        'vespid_x_change_managed_executor(uuid, boolean, boolean)',
        'vespid_x_revoke_managed_executor(uuid)'
    ] loop
        perform vespid_cross_function(signature);
    end loop;
end $$;
