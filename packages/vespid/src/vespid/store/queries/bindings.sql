-- Bindings of sessions to agents.

-- name: list_bindings
select id, organization_id, agent_id, priority, dimension, match, metadata, created_by_user_id, created_at, updated_at
from agent_bindings
where organization_id = $1 and ($2::uuid is null or id < $2)
order by id desc
limit $3

-- name: create_binding
-- Nothing where the organization has as many as it may: all of them are read when one is asked.
insert into agent_bindings (
    id, organization_id, agent_id, priority, dimension, match, metadata, created_by_user_id
)
select $1, $2, $3, $4, $5, $6, $7, $8
where (select count(*) from agent_bindings where organization_id = $2) < $9
returning id, organization_id, agent_id, priority, dimension, match, metadata, created_by_user_id, created_at, updated_at

-- name: lock_binding
select id, organization_id, agent_id, priority, dimension, match, metadata, created_by_user_id, created_at, updated_at
from agent_bindings
where organization_id = $1 and id = $2
for no key update

-- name: change_binding
update agent_bindings
set agent_id = $3, priority = $4, dimension = $5, match = $6, metadata = $7, updated_at = now()
where organization_id = $1 and id = $2
returning id, organization_id, agent_id, priority, dimension, match, metadata, created_by_user_id, created_at, updated_at

-- name: delete_binding
delete from agent_bindings where organization_id = $1 and id = $2
returning id
