-- Who is in an organization. All of these run in its tenant.

-- name: list_members
select m.user_id, u.email, u.display_name, m.role, m.created_at
from memberships m join users u on u.id = m.user_id
where ($1::uuid is null or m.user_id > $1)
  and ($3::text is null or position(lower($3) in lower(u.email || ' ' || coalesce(u.display_name, ''))) > 0)
order by m.user_id
limit $2

-- name: lock_owners
-- Whoever demotes or removes an owner takes turns here. Who waited sees the owners as the other left them.
select user_id from memberships where organization_id = $1 and role = 'owner' order by user_id for update

-- name: lock_member
select m.user_id, u.email, u.display_name, m.role, m.created_at
from memberships m join users u on u.id = m.user_id
where m.organization_id = $1 and m.user_id = $2
for update of m

-- name: change_role
update memberships set role = $3, updated_at = now() where organization_id = $1 and user_id = $2

-- name: remove_member
delete from memberships where organization_id = $1 and user_id = $2

-- name: revoke_keys_of
-- The keys that a member made act in their name, and end with the membership.
update api_keys set revoked_at = now()
where organization_id = $1 and created_by_user_id = $2 and revoked_at is null
returning id

-- name: lower_keys_of
-- A key is never worth more than its maker.
update api_keys set role = $3
where organization_id = $1 and created_by_user_id = $2 and revoked_at is null
    and array_position(array['member', 'admin', 'owner'], role) > array_position(array['member', 'admin', 'owner'], $3)
