-- What the dispatching of work reads beside runs and executions.

-- name: read_settings
select settings from org_settings where organization_id = nullif(current_setting('app.current_org_id', true), '')::uuid
