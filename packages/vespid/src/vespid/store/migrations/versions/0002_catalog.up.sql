-- What an organization keeps before anything runs: secrets, workflows, and the hooks that start them.

-- A secret's value is sealed under a data key of its own (DEK), and the data key under a key that never enters the
-- database (KEK). Organization and row id are associated data of both seals: a row copied over another does not open.
create table secrets (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    connector_id text not null check (length(connector_id) between 1 and 120),
    name text not null check (length(name) between 1 and 120),
    kek_id text not null,
    wrapped_dek bytea not null,
    dek_nonce bytea not null check (octet_length(dek_nonce) = 12),
    value_ciphertext bytea not null,
    value_nonce bytea not null check (octet_length(value_nonce) = 12),
    created_by_user_id uuid references users (id) on delete set null,
    updated_by_user_id uuid references users (id) on delete set null,
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(),
    unique (organization_id, id),
    constraint secrets_name_taken unique (organization_id, connector_id, name)
);
-- Rotation walks the rows that are not under the active KEK, by id.
create index secrets_by_kek on secrets (kek_id, id);
select vespid_tenant_table('secrets');

-- One row is one revision; the revisions of one workflow are a family, named by the id of its first revision.
create table workflows (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    family_id uuid not null,
    revision integer not null check (revision >= 1),
    source_workflow_id uuid,
    name text not null check (length(name) between 1 and 200),
    status text not null default 'draft' check (status in ('draft', 'published')),
    -- Grows with every change of the row, publishing included.
    version integer not null default 1,
    dsl jsonb not null,
    editor_state jsonb,
    created_by_user_id uuid references users (id) on delete set null,
    -- Whose name the runs carry that nobody asked for by hand: cron and webhook.
    published_by_user_id uuid references users (id) on delete set null,
    published_at timestamptz(3),
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(),
    check ((status = 'published') = (published_at is not null)),
    unique (organization_id, id),
    unique (family_id, revision),
    foreign key (organization_id, family_id) references workflows (organization_id, id),
    foreign key (organization_id, source_workflow_id) references workflows (organization_id, id)
);
create index workflows_by_org on workflows (organization_id, id desc);
select vespid_tenant_table('workflows');

-- A run names the revision that it runs; so what is published never changes. Only the names of people who left go.
create function vespid_keep_published_workflow() returns trigger language plpgsql as $$
begin
    if (to_jsonb(new) - array['created_by_user_id', 'published_by_user_id'])
        is distinct from (to_jsonb(old) - array['created_by_user_id', 'published_by_user_id']) then
        raise exception 'workflow % is published and does not change', old.id using errcode = 'VW001';
    end if;
    return new;
end $$;
create trigger workflows_keep_published before update on workflows
    for each row when (old.status = 'published') execute function vespid_keep_published_workflow();

-- One token per family, so that a sender need not learn of a new revision.
create table webhook_tokens (
    organization_id uuid not null references organizations (id) on delete cascade,
    family_id uuid not null,
    token_sha256 bytea not null unique check (octet_length(token_sha256) = 32),
    created_at timestamptz(3) not null default now(),
    rotated_at timestamptz(3),
    primary key (organization_id, family_id),
    foreign key (organization_id, family_id) references workflows (organization_id, id) on delete cascade
);
select vespid_tenant_table('webhook_tokens');

-- Deliveries that named themselves, so that a repeat finds the run it has already started.
create table webhook_deliveries (
    organization_id uuid not null references organizations (id) on delete cascade,
    family_id uuid not null,
    delivery_sha256 bytea not null check (octet_length(delivery_sha256) = 32),
    run_id uuid not null,
    received_at timestamptz(3) not null default now(),
    primary key (organization_id, family_id, delivery_sha256),
    foreign key (organization_id, family_id) references workflows (organization_id, id) on delete cascade
);
create index webhook_deliveries_by_age on webhook_deliveries (organization_id, family_id, received_at);
select vespid_tenant_table('webhook_deliveries');

-- Cross-tenant: a hook's caller is known by nothing but its token. Answers the newest published revision, unless that
-- one is no longer started by a webhook.
create function vespid_x_find_webhook(p_token_sha256 bytea)
returns table (organization_id uuid, family_id uuid, workflow_id uuid, published_by_user_id uuid)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select n.organization_id, n.family_id, n.id, n.published_by_user_id
    from webhook_tokens t
    cross join lateral (
        select w.* from workflows w
        where w.organization_id = t.organization_id and w.family_id = t.family_id and w.status = 'published'
        order by w.revision desc
        limit 1
    ) n
    where t.token_sha256 = p_token_sha256 and n.dsl->'trigger'->>'type' = 'trigger.webhook'
$$;

-- Cross-tenant: rotation reads wrapped data keys only, never a sealed value.
create function vespid_x_secrets_to_rewrap(p_active_kek_id text, p_after uuid, p_limit integer)
returns table (id uuid, organization_id uuid, kek_id text, wrapped_dek bytea, dek_nonce bytea)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select s.id, s.organization_id, s.kek_id, s.wrapped_dek, s.dek_nonce
    from secrets s
    where s.kek_id <> p_active_kek_id and s.id > p_after
    order by s.id
    limit p_limit
$$;

-- Cross-tenant: puts the re-wrapped data keys in place. A row written meanwhile has another wrapped key and stays as
-- it is; it is already under the active KEK.
create function vespid_x_rewrap_secrets(
    p_ids uuid[], p_organization_ids uuid[], p_old_wrapped bytea[], p_kek_id text, p_new_wrapped bytea[], p_new_nonces bytea[]
) returns integer
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    with given as (
        select * from unnest(p_ids, p_organization_ids, p_old_wrapped, p_new_wrapped, p_new_nonces)
            as g (id, organization_id, old_wrapped, new_wrapped, new_nonce)
    ), done as (
        update secrets s
        set kek_id = p_kek_id, wrapped_dek = g.new_wrapped, dek_nonce = g.new_nonce
        from given g
        where s.id = g.id and s.organization_id = g.organization_id and s.wrapped_dek = g.old_wrapped
        returning 1
    )
    select count(*)::integer from done
$$;

do $$
declare
    signature text;
begin
    foreach signature in array array[
        'vespid_x_find_webhook(bytea)',
        'vespid_x_secrets_to_rewrap(text, uuid, integer)',
        'vespid_x_rewrap_secrets(uuid[], uuid[], bytea[], text, bytea[], bytea[])'
    ] loop
        perform vespid_cross_function(signature);
    end loop;
end $$;
grant select on webhook_tokens, workflows to vespid_cross;
grant select (id, organization_id, kek_id, wrapped_dek, dek_nonce), update (kek_id, wrapped_dek, dek_nonce)
    on secrets to vespid_cross;
