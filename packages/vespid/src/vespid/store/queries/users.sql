-- People, and the organizations they are in.

-- name: create_user
insert into users (id, email, display_name, password_hash) values ($1, $2, $3, $4)
on conflict (email) do nothing
returning id, email, display_name, is_system_admin, created_at

-- name: find_user
select id, email, display_name, is_system_admin, created_at from users where id = $1

-- name: find_login
select id, email, display_name, is_system_admin, created_at, password_hash from users where email = $1

-- name: replace_password_hash
-- Only the hash that was verified is replaced: a password changed meanwhile stays.
update users set password_hash = $3, updated_at = now() where id = $1 and password_hash = $2

-- name: list_organizations
select id, slug, name, role, settings from vespid_x_user_organizations($1)
