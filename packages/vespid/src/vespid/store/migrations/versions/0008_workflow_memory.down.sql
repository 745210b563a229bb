drop table memory_writes;
delete from memory_docs where session_key like 'workflow:%';
