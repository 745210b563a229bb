-- What sessions remember, as people read it. Hosts put it down, by functions of migration 0005.

-- name: read_version
-- Grows with every change of a document under this key.
select memory_version from sessions where organization_id = $1 and session_key = $2

-- name: list_docs
-- By path. A page goes on after a document's id: one that is deleted keeps its row, so the cursor stays good.
select d.id, d.organization_id, d.session_key, d.path, d.version, d.sha256, d.created_at, d.updated_at
from memory_docs d
where d.organization_id = $1 and d.session_key = $2 and d.content is not null
  and ($3::uuid is null or d.path > (select c.path from memory_docs c where c.organization_id = $1 and c.id = $3))
order by d.path
limit $4

-- name: list_texts
select id, path, sha256, content from memory_docs where organization_id = $1 and session_key = $2 and content is not null

-- name: list_changed
select path, version, sha256, content is null as deleted
from memory_docs
where organization_id = $1 and session_key = $2 and version > $3
order by path

-- name: read_doc
select id, organization_id, session_key, path, version, sha256, content, created_at, updated_at
from memory_docs
where organization_id = $1 and id = $2 and content is not null

