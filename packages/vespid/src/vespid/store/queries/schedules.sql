-- Cron triggers. The functions live in migration 0003.

-- name: due_schedules
select * from vespid_x_due_schedules($1)

-- name: fire_schedule
select vespid_fire_schedule($1, $2, $3, $4, $5)
