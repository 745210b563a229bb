-- name: create_pairing_token
insert into pairing_tokens (id, organization_id, token_sha256, created_by_user_id, expires_at)
values ($1, $2, $3, $4, now() + $5 * interval '1 ms')
returning expires_at

-- name: read_pairing_token
select id, expires_at, used_at, executor_id from pairing_tokens where organization_id = $1 and id = $2

-- name: lock_pairing_token
-- Whoever pairs second with the same token waits here, and then finds it used.
select id, created_by_user_id, used_at is not null as is_used, expires_at <= now() as is_expired
from pairing_tokens
where organization_id = $1 and token_sha256 = $2
for update

-- name: create_agent
insert into executors (
    id, organization_id, name, agent_version, token_sha256, capabilities, kinds, connectors, engines, reported_tags,
    max_in_flight, created_by_user_id
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)

-- name: use_pairing_token
update pairing_tokens set used_at = now(), executor_id = $2 where id = $1
