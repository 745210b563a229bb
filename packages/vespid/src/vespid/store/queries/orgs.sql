-- Organizations and their settings.

-- name: create_organization
-- In the tenant of its own id, which the caller has chosen.
insert into organizations (id, slug, name) values ($1, $2, $3)
on conflict on constraint organizations_slug_taken do nothing
returning id, slug, name, created_at

-- name: create_membership
insert into memberships (organization_id, user_id, role) values ($1, $2, $3)
on conflict do nothing
returning organization_id, user_id, role, created_at

-- name: read_settings
select settings from org_settings where organization_id = $1

-- name: lock_settings
-- Two partial changes at once are merged one after the other: the row is there before it is locked.
insert into org_settings (organization_id, settings) values ($1, '{}')
on conflict (organization_id) do update set settings = org_settings.settings
returning settings

-- name: replace_settings
update org_settings set settings = $2, updated_by_user_id = $3, updated_at = now() where organization_id = $1
