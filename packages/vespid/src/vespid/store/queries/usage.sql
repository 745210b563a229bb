-- What models took. A row is one try; whatever is summed up here adds up. Groups go by `key`, a text of at most 64 characters.

-- name: of_run
select node_id, provider, model, count(*)::bigint as tries, sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
       sum(total_tokens)::bigint as total_tokens, sum(cost_micros)::bigint as cost_micros,
       coalesce(sum(total_tokens) filter (where cost_micros is null), 0)::bigint as unpriced_tokens
from model_usage
where organization_id = $1 and run_id = $2
group by node_id, provider, model
order by node_id, provider, model

-- name: in_total
select count(*)::bigint as tries, coalesce(sum(input_tokens), 0)::bigint as input_tokens, coalesce(sum(output_tokens), 0)::bigint as output_tokens,
       coalesce(sum(total_tokens), 0)::bigint as total_tokens, sum(cost_micros)::bigint as cost_micros,
       coalesce(sum(total_tokens) filter (where cost_micros is null), 0)::bigint as unpriced_tokens
from model_usage
where organization_id = $1 and recorded_at >= $2 and recorded_at < $3

-- name: by_day
-- Days of UTC.
select day::text as key, day, count(*)::bigint as tries, sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
       sum(total_tokens)::bigint as total_tokens, sum(cost_micros)::bigint as cost_micros,
       coalesce(sum(total_tokens) filter (where cost_micros is null), 0)::bigint as unpriced_tokens
from (select u.*, (u.recorded_at at time zone 'UTC')::date as day from model_usage u
      where u.organization_id = $1 and u.recorded_at >= $2 and u.recorded_at < $3) used
where $4::text is null or day::text > $4
group by day
order by key
limit $5

-- name: by_model
-- The key is a hash, for a name may be longer than a cursor.
select md5(provider || '/' || model) as key, provider, model, count(*)::bigint as tries, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens, sum(total_tokens)::bigint as total_tokens, sum(cost_micros)::bigint as cost_micros,
       coalesce(sum(total_tokens) filter (where cost_micros is null), 0)::bigint as unpriced_tokens
from model_usage
where organization_id = $1 and recorded_at >= $2 and recorded_at < $3 and ($4::text is null or md5(provider || '/' || model) > $4)
group by provider, model
order by key
limit $5

-- name: by_workflow
-- By family: the revisions of a workflow are one to who pays for it. Its name is that of the newest revision used.
select w.family_id::text as key, w.family_id, (array_agg(w.name order by w.revision desc))[1] as workflow_name, count(*)::bigint as tries,
       sum(u.input_tokens)::bigint as input_tokens, sum(u.output_tokens)::bigint as output_tokens, sum(u.total_tokens)::bigint as total_tokens,
       sum(u.cost_micros)::bigint as cost_micros, coalesce(sum(u.total_tokens) filter (where u.cost_micros is null), 0)::bigint as unpriced_tokens
from model_usage u join workflows w on w.organization_id = u.organization_id and w.id = u.workflow_id
where u.organization_id = $1 and u.recorded_at >= $2 and u.recorded_at < $3 and ($4::text is null or w.family_id::text > $4)
group by w.family_id
order by key
limit $5

-- name: by_session
select u.session_id::text as key, u.session_id, s.title as session_title, count(*)::bigint as tries,
       sum(u.input_tokens)::bigint as input_tokens, sum(u.output_tokens)::bigint as output_tokens, sum(u.total_tokens)::bigint as total_tokens,
       sum(u.cost_micros)::bigint as cost_micros, coalesce(sum(u.total_tokens) filter (where u.cost_micros is null), 0)::bigint as unpriced_tokens
from model_usage u left join sessions s on s.organization_id = u.organization_id and s.id = u.session_id
where u.organization_id = $1 and u.recorded_at >= $2 and u.recorded_at < $3 and u.session_id is not null
  and ($4::text is null or u.session_id::text > $4)
group by u.session_id, s.title
order by key
limit $5
