drop function vespid_x_rewrap_secrets(uuid[], uuid[], bytea[], text, bytea[], bytea[]);
drop function vespid_x_secrets_to_rewrap(text, uuid, integer);
drop function vespid_x_find_webhook(bytea);
drop table webhook_deliveries;
drop table webhook_tokens;
drop table workflows;
drop function vespid_keep_published_workflow();
drop table secrets;
