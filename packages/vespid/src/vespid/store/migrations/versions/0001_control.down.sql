-- The roles stay: they belong to the cluster, and another database of it may be using them.
drop function vespid_x_prune_idempotency_keys(integer);
drop function vespid_x_user_organizations(uuid);
drop function vespid_authorize_api_key(uuid, bytea);
drop function vespid_authorize(uuid, uuid, uuid);
drop table idempotency_keys;
drop table audit_log;
drop table api_keys;
drop table org_settings;
drop table invitations;
drop table refresh_tokens;
drop table auth_sessions;
drop table memberships;
drop table organizations;
drop table users;
drop function vespid_cross_function(text);
drop function vespid_tenant_table(text, text);
revoke usage on schema public from vespid_service, vespid_cross;
