-- Roles, the tenant helper, and the control plane's own tables: accounts, organizations, credentials, audit.

-- Roles belong to the cluster, not to this database: an administrator may have made them, and another database may be
-- migrating at the same moment (whoever comes second waits for the first and finds them there). Nobody logs in as
-- vespid_cross; who migrates is a member of it, to hand functions over. What this login may not do for itself is told as
-- the statements that an administrator has to run.
do $$
declare
    me text := quote_ident(current_user);
    -- From 16 on a member need not be allowed to act as the role.
    belongs text := case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end;
    role record;
    wanted text;
    lacking text[] := '{}';
begin
    for role in select * from (values ('vespid_service', false), ('vespid_cross', true)) as r (name, crosses) loop
        wanted := null;
        begin
            if not exists (select from pg_roles r where r.rolname = role.name) then
                wanted := format('create role %I nologin nosuperuser %s nocreatedb nocreaterole', role.name,
                                 case when role.crosses then 'bypassrls' else 'nobypassrls' end);
                execute wanted;
            elsif exists (select from pg_roles r where r.rolname = role.name
                          and (r.rolsuper or r.rolbypassrls <> role.crosses)) then
                wanted := format('alter role %I nosuperuser %s', role.name,
                                 case when role.crosses then 'bypassrls' else 'nobypassrls' end);
                execute wanted;
            end if;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then lacking := lacking || wanted;
        end;
        wanted := format('grant %I to %s', role.name, me);
        begin
            if not exists (select from pg_roles r where r.rolname = role.name) then
                lacking := lacking || wanted;
            elsif not pg_has_role(current_user, role.name, belongs) then
                execute wanted;
            end if;
        exception
            when insufficient_privilege then lacking := lacking || wanted;
        end;
    end loop;
    if not has_schema_privilege('public', 'usage with grant option')
       or not has_schema_privilege('public', 'create with grant option') then
        lacking := lacking || format('grant usage, create on schema public to %s with grant option', me);
    end if;
    if lacking <> '{}' then
        raise exception using errcode = 'insufficient_privilege', message = format(
            E'the login %s may not prepare what Vespid needs; an administrator (a superuser) must run in this database:\n    %s;',
            me, array_to_string(lacking, E';\n    '));
    end if;
end $$;
grant usage on schema public to vespid_service, vespid_cross;
-- A process that starts looks whether the schema is the one it knows.
grant select on alembic_version to vespid_service;

-- Makes a table of tenants' rows: row-level security that binds the owner too, one policy, and what the service role
-- may do. `p_privileges` is for tables where it may do less than everything. The setting is '' after a transaction that
-- had set it, and not null: hence the nullif.
create function vespid_tenant_table(p_table text, p_privileges text default 'select, insert, update, delete')
returns void language plpgsql as $$
begin
    execute format('alter table %I enable row level security', p_table);
    execute format('alter table %I force row level security', p_table);
    execute format(
        'create policy tenant on %I to vespid_service using (organization_id = %s) with check (organization_id = %s)',
        p_table,
        'nullif(current_setting(''app.current_org_id'', true), '''')::uuid',
        'nullif(current_setting(''app.current_org_id'', true), '''')::uuid'
    );
    execute format('grant %s on %I to vespid_service', p_privileges, p_table);
end $$;

-- Hands a function over to vespid_cross, as whom it then runs, and lets the service role call it. A new owner must be
-- allowed to create in the schema, and is so for that moment only.
create function vespid_cross_function(p_signature text) returns void language plpgsql as $$
begin
    execute format('revoke all on function %s from public', p_signature);
    execute format('grant execute on function %s to vespid_service', p_signature);
    grant create on schema public to vespid_cross;
    execute format('alter function %s owner to vespid_cross', p_signature);
    revoke create on schema public from vespid_cross;
end $$;

-- People. An address is kept trimmed and in lower case, so that it is one person however it is typed.
create table users (
    id uuid primary key,
    email text not null unique check (email = lower(email) and length(email) between 3 and 320),
    display_name text check (length(display_name) between 1 and 120),
    password_hash text not null,
    is_system_admin boolean not null default false,
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now()
);
grant select, insert, update on users to vespid_service;

create table organizations (
    id uuid primary key,
    slug text not null constraint organizations_slug_taken unique check (slug ~ '^[a-z0-9-]{3,50}$'),
    name text not null check (length(name) between 2 and 120),
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now()
);
alter table organizations enable row level security;
alter table organizations force row level security;
create policy tenant on organizations to vespid_service
    using (id = nullif(current_setting('app.current_org_id', true), '')::uuid)
    with check (id = nullif(current_setting('app.current_org_id', true), '')::uuid);
grant select, insert, update on organizations to vespid_service;

create table memberships (
    organization_id uuid not null references organizations (id) on delete cascade,
    user_id uuid not null references users (id) on delete cascade,
    role text not null check (role in ('owner', 'admin', 'member')),
    created_at timestamptz(3) not null default now(),
    updated_at timestamptz(3) not null default now(),
    primary key (organization_id, user_id)
);
create index memberships_by_user on memberships (user_id);
select vespid_tenant_table('memberships');

-- A login. Its access tokens carry the id and die with it; its refresh tokens are in the next table.
create table auth_sessions (
    id uuid primary key,
    user_id uuid not null references users (id) on delete cascade,
    created_at timestamptz(3) not null default now(),
    last_used_at timestamptz(3) not null default now(),
    expires_at timestamptz(3) not null,
    revoked_at timestamptz(3),
    revoked_reason text,
    ip inet,
    user_agent text
);
create index auth_sessions_by_user on auth_sessions (user_id) where revoked_at is null;
create index auth_sessions_by_expiry on auth_sessions (expires_at);
grant select, insert, update, delete on auth_sessions to vespid_service;

-- Every refresh token a login has had: that a rotated one comes back is how theft is noticed.
create table refresh_tokens (
    token_sha256 bytea primary key check (octet_length(token_sha256) = 32),
    session_id uuid not null references auth_sessions (id) on delete cascade,
    issued_at timestamptz not null default now(),
    rotated_at timestamptz
);
create index refresh_tokens_by_session on refresh_tokens (session_id);
grant select, insert, update, delete on refresh_tokens to vespid_service;

create table invitations (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    email text not null check (email = lower(email)),
    role text not null check (role in ('owner', 'admin', 'member')),
    token_sha256 bytea not null unique check (octet_length(token_sha256) = 32),
    invited_by_user_id uuid references users (id) on delete set null,
    created_at timestamptz(3) not null default now(),
    expires_at timestamptz(3) not null,
    accepted_at timestamptz(3),
    accepted_by_user_id uuid references users (id) on delete set null,
    revoked_at timestamptz(3),
    unique (organization_id, id)
);
select vespid_tenant_table('invitations');

-- Only what was set; everything else is the default of the day.
create table org_settings (
    organization_id uuid primary key references organizations (id) on delete cascade,
    settings jsonb not null,
    updated_by_user_id uuid references users (id) on delete set null,
    updated_at timestamptz(3) not null default now()
);
select vespid_tenant_table('org_settings');

-- Machine credentials. A key acts in its own organization only, in the name of the member who made it.
create table api_keys (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    name text not null check (length(name) between 1 and 120),
    role text not null check (role in ('owner', 'admin', 'member')),
    token_sha256 bytea not null unique check (octet_length(token_sha256) = 32),
    created_by_user_id uuid not null references users (id) on delete cascade,
    created_at timestamptz(3) not null default now(),
    expires_at timestamptz(3),
    last_used_at timestamptz(3),
    revoked_at timestamptz(3),
    unique (organization_id, id)
);
create index api_keys_by_creator on api_keys (organization_id, created_by_user_id) where revoked_at is null;
select vespid_tenant_table('api_keys');

-- Who did what to which object, when, from where. Names of actors are kept as ids without a reference: the log outlives
-- them. Rows can be added and read, by anybody; changing them takes the owner of the schema.
create table audit_log (
    id uuid primary key,
    organization_id uuid not null references organizations (id) on delete cascade,
    actor_user_id uuid,
    actor_api_key_id uuid,
    action text not null,
    object_type text not null,
    object_id text not null,
    details jsonb not null default '{}',
    ip inet,
    user_agent text,
    request_id text,
    created_at timestamptz(3) not null default now()
);
create index audit_log_by_org on audit_log (organization_id, id desc);
select vespid_tenant_table('audit_log', 'select, insert');

-- Answers already given to a POST that named itself with an Idempotency-Key. The scope is a digest of caller,
-- organization, route and key. `resource_id` is chosen with the claim, so that a creation which is not in the same
-- transaction can be repeated under the same id. Rows of no organization are seen where no tenant is set.
create table idempotency_keys (
    scope_sha256 bytea primary key check (octet_length(scope_sha256) = 32),
    organization_id uuid references organizations (id) on delete cascade,
    body_sha256 bytea not null check (octet_length(body_sha256) = 32),
    resource_id uuid not null,
    status smallint,
    answer bytea,
    created_at timestamptz(3) not null default now(),
    expires_at timestamptz(3) not null
);
create index idempotency_keys_by_expiry on idempotency_keys (expires_at);
alter table idempotency_keys enable row level security;
alter table idempotency_keys force row level security;
create policy tenant on idempotency_keys to vespid_service
    using (organization_id is not distinct from nullif(current_setting('app.current_org_id', true), '')::uuid)
    with check (organization_id is not distinct from nullif(current_setting('app.current_org_id', true), '')::uuid);
grant select, insert, update, delete on idempotency_keys to vespid_service;

-- What the server must know before it looks at a request, in one round trip: is the login alive, and what is the user
-- in this organization (null: not a member; p_org null: not asked).
create function vespid_authorize(p_session uuid, p_user uuid, p_org uuid)
returns table (session_live boolean, role text) language plpgsql as $$
begin
    perform set_config('app.current_org_id', coalesce(p_org::text, ''), true);
    return query select
        exists (
            select from auth_sessions s
            where s.id = p_session and s.user_id = p_user and s.revoked_at is null and s.expires_at > now()
        ),
        (select m.role from memberships m where m.organization_id = p_org and m.user_id = p_user);
end $$;

-- The same for an API key, which names its organization. The time of last use is written at most once a minute.
create function vespid_authorize_api_key(p_org uuid, p_token_sha256 bytea)
returns table (id uuid, role text, user_id uuid, email text) language plpgsql as $$
begin
    perform set_config('app.current_org_id', p_org::text, true);
    update api_keys k set last_used_at = now()
        where k.organization_id = p_org and k.token_sha256 = p_token_sha256 and k.revoked_at is null
            and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute');
    return query select k.id, k.role, k.created_by_user_id, u.email
        from api_keys k join users u on u.id = k.created_by_user_id
        where k.organization_id = p_org and k.token_sha256 = p_token_sha256
            and k.revoked_at is null and (k.expires_at is null or k.expires_at > now());
end $$;

-- Cross-tenant: a user's own organizations, the oldest membership first.
create function vespid_x_user_organizations(p_user uuid)
returns table (id uuid, slug text, name text, role text, settings jsonb)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select o.id, o.slug, o.name, m.role, s.settings
    from memberships m
    join organizations o on o.id = m.organization_id
    left join org_settings s on s.organization_id = o.id
    where m.user_id = p_user
    order by m.created_at, o.id
$$;

-- Cross-tenant: forgets answers that are older than their day.
create function vespid_x_prune_idempotency_keys(p_limit integer) returns integer
language sql security definer set search_path = pg_catalog, public, pg_temp as $$
    with gone as (
        delete from idempotency_keys k
        where k.scope_sha256 in (
            select e.scope_sha256 from idempotency_keys e where e.expires_at < now()
            order by e.expires_at limit p_limit for update skip locked
        )
        returning 1
    )
    select count(*)::integer from gone
$$;

do $$
declare
    signature text;
begin
    foreach signature in array array[
        'vespid_x_user_organizations(uuid)',
        'vespid_x_prune_idempotency_keys(integer)'
    ] loop
        perform vespid_cross_function(signature);
    end loop;
end $$;
grant select on memberships, organizations, org_settings to vespid_cross;
grant select, update, delete on idempotency_keys to vespid_cross;
