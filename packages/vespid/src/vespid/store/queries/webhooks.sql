-- name: create_webhook_token
-- Nothing comes back where the family has one already.
insert into webhook_tokens (organization_id, family_id, token_sha256)
values ($1, $2, $3)
on conflict (organization_id, family_id) do nothing
returning family_id

-- name: rotate_webhook_token
update webhook_tokens set token_sha256 = $2, rotated_at = now()
where family_id = $1
returning family_id

-- name: find_webhook
select organization_id, family_id, workflow_id, published_by_user_id from vespid_x_find_webhook($1)

-- name: forget_old_deliveries
-- The family cleans up after itself; a delivery is remembered for 24 hours.
delete from webhook_deliveries
where organization_id = $1 and family_id = $2 and received_at < now() - interval '24 hours'

-- name: remember_delivery
-- Waits for a concurrent delivery of the same name, then answers nothing.
insert into webhook_deliveries (organization_id, family_id, delivery_sha256, run_id)
values ($1, $2, $3, $4)
on conflict do nothing
returning run_id

-- name: read_delivery
select run_id from webhook_deliveries where organization_id = $1 and family_id = $2 and delivery_sha256 = $3
