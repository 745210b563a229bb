drop function vespid_x_revoke_managed_executor(uuid);
drop function vespid_x_change_managed_executor(uuid, boolean, boolean);
drop function vespid_x_list_managed_executors(uuid, integer);
drop function vespid_x_issue_managed_executor(uuid, bytea, jsonb);
alter table executors drop column region;
alter table executors drop column runtime_class;
drop table pairing_tokens;
