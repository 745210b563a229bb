-- The audit log: rows are added and read; nothing here changes one.

-- name: record
insert into audit_log (
    id, organization_id, actor_user_id, actor_api_key_id, action, object_type, object_id, details, ip, user_agent,
    request_id
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9::inet, $10, $11)

-- name: list_entries
select id, actor_user_id, actor_api_key_id, action, object_type, object_id, details, host(ip) as ip, user_agent,
    request_id, created_at
from audit_log
where ($1::uuid is null or id < $1)
  and ($3::text is null or object_type = $3)
  and ($4::text is null or object_id = $4)
  and ($5::uuid is null or actor_user_id = $5)
order by id desc
limit $2
