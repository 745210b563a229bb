-- name: list_agents
-- Newest first. A live connection was heard of when its edge last renewed its own lease; between connect and close
-- nothing is written to the executor's row. Of its own tools no more is read than people are shown: schemas are long.
select x.id, x.organization_id, x.name, x.agent_version, x.tags, x.reported_tags, x.kinds, x.connectors, x.engines,
    x.backends, x.capabilities->'engineStates' as engine_states,
    case when jsonb_typeof(x.capabilities->'tools') = 'array' then (
        select coalesce(jsonb_agg(jsonb_build_object('id', t->>'id', 'description', left(t->>'description', 300))), '[]')
        from jsonb_array_elements(x.capabilities->'tools') t
    ) end as tools,
    case when jsonb_typeof(x.capabilities->'toolProblems') = 'array' then x.capabilities->'toolProblems' end
        as tool_problems,
    x.max_in_flight, x.cordoned, x.draining, x.enabled, x.revoked_at, x.created_at, x.last_seen_at, x.connected_at,
    x.lost_at,
    case when x.lost_at is null then p.renewed_at end as edge_renewed_at,
    (select count(*) from executions e
     where e.executor_id = x.id and e.finished_at is null and e.state <> 'pending') as in_flight,
    x.runtime_class, x.region
from executors x
left join processes p on p.id = x.edge_id
where x.organization_id = $1 and ($2::uuid is null or x.id < $2)
    and ($4::uuid is null or x.id = $4)
    and ($5::text is null or $5 = any (x.tags))
    and ($6::text is null or strpos(lower(x.name), lower($6)) > 0)
    and ($7::text is null or $7 = case
        when x.revoked_at is not null then 'revoked'
        when x.cordoned then 'cordoned'
        when x.lost_at is null and x.connected_at is not null
            and greatest(x.last_seen_at, p.renewed_at) >= $8::timestamptz - $9 * interval '1 ms' then 'online'
        else 'offline'
    end)
order by x.id desc
limit $3

-- name: change_tags
-- A revoked agent has no tags to change.
update executors set tags = $3, tags_version = tags_version + 1
where organization_id = $1 and id = $2 and revoked_at is null
returning tags_version

-- name: set_cordoned
update executors set cordoned = $3
where organization_id = $1 and id = $2 and revoked_at is null
returning id

-- name: lock_agent
select revoked_at from executors where organization_id = $1 and id = $2 for no key update

-- name: revoke_agent
update executors set revoked_at = now(), previous_token_sha256 = null, previous_token_until = null
where organization_id = $1 and id = $2 and revoked_at is null
returning id

-- name: rotate_agent_token
-- The token of before is good for a while, so that the agent can be told the new one without a gap.
update executors
set previous_token_sha256 = token_sha256, previous_token_until = now() + $4 * interval '1 ms', token_sha256 = $3
where organization_id = $1 and id = $2 and revoked_at is null
returning id

-- name: announce
-- In the transaction of the change: what every process must learn within a second.
insert into control_feed (organization_id, kind, subject_id, payload) values ($1, $2, $3, $4) returning id

-- name: issue_managed_executor
select vespid_x_issue_managed_executor($1, $2, $3)

-- name: list_managed_executors
select executor, in_flight, edge_renewed_at from vespid_x_list_managed_executors($1, $2)

-- name: change_managed_executor
select vespid_x_change_managed_executor($1, $2, $3)

-- name: revoke_managed_executor
select vespid_x_revoke_managed_executor($1)

-- name: reported_tools
select tool from vespid_x_reported_tools($1, $2, $3, $4)
