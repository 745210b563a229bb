-- Steps of runs. The functions live in migration 0003; each call is one commit.

-- name: load_runs
-- Of several organizations at once; each is read as its own tenant.
select l.*
from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (org, run, ord)
left join lateral vespid_load_run(asked.org, asked.run) l on true
order by asked.ord

-- name: apply_steps
select outcome, detail from vespid_apply_steps($1) order by ord

-- name: step_failed
select vespid_step_failed($1, $2, $3, $4)

-- name: due_runs
select * from vespid_x_due_runs($1)
