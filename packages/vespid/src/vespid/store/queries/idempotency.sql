-- Answers already given to a POST that named itself. All of these run in the tenant of the request, or in none.

-- name: lock_scope
-- Requests with one key take turns: whoever waits here finds the first one's answer.
select pg_advisory_xact_lock(hashtextextended(encode($1::bytea, 'hex'), 0))

-- name: find_answer
select body_sha256, resource_id, status, answer from idempotency_keys
where scope_sha256 = $1 and expires_at > now()

-- name: claim_key
-- A key whose day is over may be used again.
insert into idempotency_keys (scope_sha256, organization_id, body_sha256, resource_id, expires_at)
values ($1, $2, $3, $4, now() + interval '24 hours')
on conflict (scope_sha256) do update
    set body_sha256 = excluded.body_sha256, resource_id = excluded.resource_id, status = null, answer = null,
        created_at = now(), expires_at = excluded.expires_at
    where idempotency_keys.expires_at <= now()

-- name: store_answer
update idempotency_keys set status = $2, answer = $3 where scope_sha256 = $1

-- name: enter_tenant
select set_config('app.current_org_id', $1, true)

-- name: prune_keys
select vespid_x_prune_idempotency_keys($1)
