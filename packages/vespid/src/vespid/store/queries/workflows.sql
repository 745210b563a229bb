-- name: list_workflows
-- Newest first; every revision is a row of its own. $4: of each family only its newest of that status.
select w.* from workflows w
where ($1::uuid is null or w.id < $1) and ($2::text is null or w.status = $2)
  and ($3::text is null or position(lower($3) in lower(w.name)) > 0)
  and (not $4 or not exists (
      select from workflows n
      where n.family_id = w.family_id and n.revision > w.revision and ($2::text is null or n.status = $2)
  ))
order by w.id desc
limit $5

-- name: list_revisions
-- Of the family that the workflow belongs to, newest first.
select w.* from workflows w
where w.family_id = (select family_id from workflows where id = $1)
  and ($2::integer is null or w.revision < $2)
order by w.revision desc
limit $3

-- name: read_workflow
select * from workflows where id = $1

-- name: lock_workflow
-- For a change that depends on the status: the row does not move until the transaction ends. Not "for update", which
-- would make every run that is being inserted wait at its foreign key.
select * from workflows where id = $1 for no key update

-- name: create_workflow
insert into workflows (id, organization_id, family_id, revision, name, dsl, editor_state, created_by_user_id)
values ($1, $2, $1, 1, $3, $4, $5, $6)
returning *

-- name: change_draft
-- A null leaves what is there; the editor's state is given as JSON null to be emptied.
update workflows
set name = coalesce($2, name), dsl = coalesce($3, dsl), editor_state = coalesce($4, editor_state),
    version = version + 1, updated_at = now()
where id = $1 and status = 'draft'
returning *

-- name: publish_workflow
update workflows
set status = 'published', published_at = now(), published_by_user_id = $2, version = version + 1, updated_at = now()
where id = $1 and status = 'draft'
returning *

-- name: lock_family
-- Two drafts made at once take two revisions, one after the other.
select id from workflows where id = $1 for no key update

-- name: create_revision
insert into workflows (
    id, organization_id, family_id, revision, source_workflow_id, name, dsl, editor_state, created_by_user_id
)
select $1, w.organization_id, w.family_id,
    (select max(revision) + 1 from workflows f where f.family_id = w.family_id),
    w.id, w.name, w.dsl, w.editor_state, $3
from workflows w
where w.id = $2
returning *

-- name: is_newest_published
-- Whether what starts by itself (cron) goes by this revision.
select not exists (
    select from workflows n join workflows w on w.family_id = n.family_id
    where w.id = $1 and n.status = 'published' and n.revision > w.revision
)

-- name: set_schedule
-- One schedule per family; a new revision takes it over and its time is planned anew.
insert into schedules (family_id, organization_id, workflow_id, cron, timezone, next_fire_at, user_id)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (family_id) do update
set workflow_id = excluded.workflow_id, cron = excluded.cron, timezone = excluded.timezone,
    next_fire_at = excluded.next_fire_at, user_id = excluded.user_id

-- name: drop_schedule
delete from schedules where family_id = $1
