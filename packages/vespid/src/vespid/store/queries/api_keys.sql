-- Machine credentials. All of these run in the tenant.

-- name: create_key
insert into api_keys (id, organization_id, name, role, token_sha256, created_by_user_id, expires_at)
values ($1, $2, $3, $4, $5, $6, $7)
returning id, name, role, created_by_user_id, created_at, expires_at, last_used_at, revoked_at

-- name: list_keys
select id, name, role, created_by_user_id, created_at, expires_at, last_used_at, revoked_at
from api_keys
where revoked_at is null and ($1::uuid is null or id < $1)
  and ($3::text is null or position(lower($3) in lower(name)) > 0)
order by id desc
limit $2

-- name: lock_key
select id, name, role, created_by_user_id, created_at, expires_at, last_used_at, revoked_at
from api_keys
where id = $1 and revoked_at is null
for update

-- name: revoke_key
update api_keys set revoked_at = now() where id = $1
