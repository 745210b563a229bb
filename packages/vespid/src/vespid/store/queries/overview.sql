-- What an organization's overview counts. Each is bounded by what is live, or by a span of time, and has its index.

-- name: count_agents
-- Online as the list of agents says it; what is in flight is counted by holder.
select count(*) filter (where online) as online,
    count(*) filter (where not online and revoked_at is null) as offline,
    count(*) filter (where cordoned and revoked_at is null) as cordoned,
    count(*) filter (where revoked_at is not null) as revoked,
    coalesce(sum(max_in_flight) filter (where online and not cordoned and not draining), 0)::bigint as capacity,
    coalesce(sum(in_flight), 0)::bigint as in_flight
from (
    select x.revoked_at, x.cordoned, x.draining, x.max_in_flight,
        coalesce(x.revoked_at is null and x.lost_at is null and x.connected_at is not null and x.last_seen_at is not null
            and greatest(x.last_seen_at, p.renewed_at) >= now() - $2 * interval '1 ms', false) as online,
        case when x.revoked_at is null then (
            select count(*) from executions e
            where e.executor_id = x.id and e.finished_at is null and e.state <> 'pending') end as in_flight
    from executors x left join processes p on p.id = x.edge_id
    where x.organization_id = $1
) agents

-- name: count_unfinished_runs
select count(*) filter (where status = 'queued') as queued, count(*) filter (where status = 'running') as running
from workflow_runs
where organization_id = $1 and finished_at is null

-- name: count_requests
-- Of runs that are not over; what people are asked is counted with the approvals.
select count(*) filter (where e.state = 'pending') as pending, count(*) filter (where e.state <> 'pending') as leased,
    extract(epoch from now() - min(e.created_at) filter (where e.state = 'pending'))::float8 as oldest_pending_s
from workflow_runs r join executions e on e.run_id = r.id
where r.organization_id = $1 and r.finished_at is null and e.finished_at is null and e.placement <> 'person'

-- name: count_waiting_approvals
select count(*) from approvals where organization_id = $1 and decision is null and expires_at > now()

-- name: count_accepted
-- By the time in the runs' ids, between neighbouring bounds.
select (select count(*) from workflow_runs r where r.organization_id = $1 and r.id >= b.low and r.id < b.high) as accepted
from unnest($2::uuid[], $3::uuid[]) with ordinality as b (low, high, ord)
order by b.ord

-- name: count_ended
-- From $2 on until $3, in spans of $4 ms. How long a run took is counted from its first start.
select floor(extract(epoch from finished_at - $2) * 1000 / $4)::int as n,
    count(*) filter (where status = 'succeeded') as succeeded, count(*) filter (where status = 'failed') as failed,
    count(*) filter (where status = 'cancelled') as cancelled,
    percentile_cont(array[0.5, 0.95]) within group (order by extract(epoch from finished_at - started_at) * 1000)
        filter (where status <> 'cancelled' and started_at is not null) as run_ms,
    percentile_cont(array[0.5, 0.95]) within group (order by extract(epoch from started_at - created_at) * 1000)
        filter (where started_at is not null) as queue_ms
from workflow_runs
where organization_id = $1 and finished_at >= $2 and finished_at < $3
group by 1
