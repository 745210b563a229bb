-- name: list_secrets
-- Newest first, by id. The sealed columns stay where they are: no list needs them.
select id, organization_id, connector_id, name, created_by_user_id, updated_by_user_id, created_at, updated_at
from secrets
where ($1::uuid is null or id < $1) and ($3::text is null or connector_id = $3)
order by id desc
limit $2

-- name: create_secret
insert into secrets (
    id, organization_id, connector_id, name, kek_id, wrapped_dek, dek_nonce, value_ciphertext, value_nonce,
    created_by_user_id, updated_by_user_id
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
on conflict on constraint secrets_name_taken do nothing
returning id, organization_id, connector_id, name, created_by_user_id, updated_by_user_id, created_at, updated_at

-- name: replace_secret_value
-- All envelope columns at once: a new value never lies under an old data key.
update secrets
set kek_id = $2, wrapped_dek = $3, dek_nonce = $4, value_ciphertext = $5, value_nonce = $6,
    updated_by_user_id = $7, updated_at = now()
where id = $1
returning id, organization_id, connector_id, name, created_by_user_id, updated_by_user_id, created_at, updated_at

-- name: delete_secret
delete from secrets where id = $1
returning connector_id, name

-- name: secret_exists
select exists (select from secrets where id = $1)

-- name: read_sealed_secret
-- Organization beside row-level security: the id alone never decides.
select kek_id, wrapped_dek, dek_nonce, value_ciphertext, value_nonce
from secrets
where organization_id = $1 and id = $2

-- name: list_secrets_to_rewrap
select id, organization_id, kek_id, wrapped_dek, dek_nonce
from vespid_x_secrets_to_rewrap($1, $2, $3)

-- name: rewrap_secrets
select vespid_x_rewrap_secrets($1::uuid[], $2::uuid[], $3::bytea[], $4, $5::bytea[], $6::bytea[])
