-- Logins, their refresh tokens, and what the server must know before it looks at a request.

-- name: authorize
-- Several callers at once; each is looked at as its own tenant.
select a.session_live, a.role
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) with ordinality as asked (session, person, org, ord)
cross join lateral vespid_authorize(asked.session, asked.person, asked.org) a
order by asked.ord

-- name: authorize_api_key
select id, role, user_id, email from vespid_authorize_api_key($1, $2)

-- name: open_session
-- The login and its first refresh token, in one statement.
with opened as (
    insert into auth_sessions (id, user_id, expires_at, ip, user_agent)
    values ($1, $2, now() + make_interval(secs => $3), $5::inet, $6)
    returning id
)
insert into refresh_tokens (token_sha256, session_id) select $4, id from opened

-- name: find_by_refresh_token
select s.id as session_id, s.user_id, u.email, t.rotated_at is not null as rotated,
    coalesce(extract(epoch from now() - t.rotated_at), 0)::float8 as rotated_ago_s,
    s.revoked_at is null and s.expires_at > now() as live
from refresh_tokens t
join auth_sessions s on s.id = t.session_id
join users u on u.id = s.user_id
where t.token_sha256 = $1

-- name: rotate_refresh_token
-- Only the first to come rotates; the successor is the same for all, so it may be there already.
with rotated as (
    update refresh_tokens set rotated_at = now()
    where token_sha256 = $1 and rotated_at is null
    returning session_id
), used as (
    update auth_sessions s set last_used_at = now(), expires_at = now() + make_interval(secs => $3)
    from rotated r where s.id = r.session_id and s.revoked_at is null
    returning s.id
)
insert into refresh_tokens (token_sha256, session_id)
select $2, id from used
on conflict (token_sha256) do nothing

-- name: revoke_session
update auth_sessions set revoked_at = now(), revoked_reason = $3
where id = $1 and user_id = $2 and revoked_at is null
returning id

-- name: revoke_all_sessions
update auth_sessions set revoked_at = now(), revoked_reason = $2
where user_id = $1 and revoked_at is null and expires_at > now()
returning id

-- name: prune_sessions
-- Kept for a month after their end, for whoever asks who was signed in.
delete from auth_sessions
where id in (
    select id from auth_sessions where expires_at < now() - interval '30 days'
    order by expires_at limit $1 for update skip locked
)
