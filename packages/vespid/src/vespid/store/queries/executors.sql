-- Executors as the gateway sees them, and the server processes. The functions live in migration 0003.

-- name: authenticate
select * from vespid_x_authenticate_executor($1)

-- name: connect
select * from vespid_x_connect_executor($1, $2)

-- name: hello
select * from vespid_x_hello_executor($1, $2)

-- name: announce
select vespid_x_announce_executor($1, $2)

-- name: disconnect
select vespid_x_disconnect_executor($1, $2, $3)

-- name: is_revoked
select vespid_x_is_revoked($1)

-- name: set_draining
select vespid_x_set_draining($1, $2)

-- name: revoke_leases
select * from vespid_x_revoke_leases($1)

-- name: sweep_leases
select * from vespid_x_sweep_leases($1)

-- name: renew_process
select vespid_x_renew_process($1, $2, $3, $4)

-- name: end_process
select vespid_x_end_process($1, $2)

-- name: sweep_processes
select * from vespid_x_sweep_processes($1)

-- name: read_feed
select * from vespid_x_read_feed($1, $2)

-- name: trim_feed
select vespid_x_trim_feed()

-- name: live_gateways
select id from processes where kind = 'gateway' and lease_until > now()

-- name: gateway_addresses
select address from processes where kind = 'gateway' and lease_until > now() and address is not null

-- name: address_of
select address from processes where id = $1 and lease_until > now()

-- name: routes_of
select x.id as executor_id, x.name, x.tags, x.max_in_flight, x.cordoned, x.draining,
       case when x.lost_at is null then x.edge_id end as edge_id, x.connection_epoch, x.connected_at
from executors x where x.organization_id = $1 and x.revoked_at is null order by x.created_at
