-- Steps of runs. The functions live in migration 0003; each call is one commit.

-- name: load_run
select * from vespid_load_run($1, $2)

-- name: apply_steps
select outcome, detail from vespid_apply_steps($1) order by ord

-- name: step_failed
select vespid_step_failed($1, $2, $3, $4)

-- name: due_runs
select * from vespid_x_due_runs($1)
