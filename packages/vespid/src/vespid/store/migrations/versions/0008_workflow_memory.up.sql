-- What runs in the gateway's mode remember lies in memory_docs as well, under `workflow:<familyId>` in the place of a
-- session key. Those have no row in sessions: their version is the greatest of their documents (deleted ones stay), and
-- whoever writes holds an advisory lock of the key until its transaction ends.

-- Which calls have written: one that comes again after a crash writes nothing any more.
create table memory_writes (
    organization_id uuid not null references organizations (id) on delete cascade,
    call_key        text not null check (length(call_key) between 1 and 512),  -- `<runId>:<nodeId>:tool:<n>`
    session_key     text not null,
    sha256          text not null,                                             -- of what the call has written
    written_at      timestamptz not null default now(),
    primary key (organization_id, call_key)
);
-- Old ones are dropped by who writes to the same memory.
create index memory_writes_by_age on memory_writes (organization_id, session_key, written_at);
select vespid_tenant_table('memory_writes', 'select, insert, delete');
