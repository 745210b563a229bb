-- Invitations. All of these run in the tenant that the token names.

-- name: create_invitation
insert into invitations (id, organization_id, email, role, token_sha256, invited_by_user_id, expires_at)
values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
returning id, organization_id, email, role, invited_by_user_id, created_at, expires_at, accepted_at, revoked_at

-- name: list_invitations
select id, organization_id, email, role, invited_by_user_id, created_at, expires_at, accepted_at, revoked_at
from invitations
where $1::uuid is null or id < $1
order by id desc
limit $2

-- name: revoke_invitation
update invitations set revoked_at = now() where id = $1 and accepted_at is null and revoked_at is null
returning id

-- name: lock_by_token
-- Held until the transaction ends: of two who accept at once, the second finds it accepted.
select id, organization_id, email, role, invited_by_user_id, created_at, expires_at, accepted_at, revoked_at
from invitations
where organization_id = $1 and token_sha256 = $2 and expires_at > now()
for update

-- name: accept_invitation
update invitations set accepted_at = now(), accepted_by_user_id = $2 where id = $1

