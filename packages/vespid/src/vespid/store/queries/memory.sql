-- What sessions and workflows remember, as people and searches read it. What sessions do is put down by their hosts, by
-- functions of migration 0005; what workflows do by the statements at the end, under an advisory lock.

-- name: read_version
-- Grows with every change of a document under this key.
select coalesce((select memory_version from sessions where organization_id = $1 and session_key = $2),
                (select max(version) from memory_docs where organization_id = $1 and session_key = $2))

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


-- name: lock_memory
-- Until the transaction ends. Only what lies under no session is locked so.
select pg_advisory_xact_lock(hashtextextended('memory ' || $1::uuid::text || ' ' || $2::text, 0))

-- name: find_write
select sha256 from memory_writes where organization_id = $1 and call_key = $2

-- name: list_sizes
select path, octet_length(content) as size
from memory_docs
where organization_id = $1 and session_key = $2 and content is not null

-- name: read_text
select content from memory_docs where organization_id = $1 and session_key = $2 and path = $3

-- name: put_doc
-- As a new version, unless it says so already.
insert into memory_docs (organization_id, session_key, path, file_key, version, sha256, content)
select $1, $2, $3, $4, coalesce(max(version), 0) + 1, $5, $6 from memory_docs where organization_id = $1 and session_key = $2
on conflict (organization_id, session_key, path) do update
set version = excluded.version, sha256 = excluded.sha256, content = excluded.content, updated_at = now()
where (memory_docs.sha256, memory_docs.content is null) is distinct from (excluded.sha256, false)

-- name: record_write
insert into memory_writes (organization_id, call_key, session_key, sha256) values ($1, $2, $3, $4)

-- name: drop_old_writes
delete from memory_writes where organization_id = $1 and session_key = $2 and written_at < now() - interval '90 days'
