-- Executors as the gateway sees them, and the server processes. The functions live in migration 0003.

-- name: authenticate
select * from vespid_x_authenticate_executor($1)

-- name: connect
select * from vespid_x_connect_executor($1, $2)

-- name: hello
select * from vespid_x_hello_executor($1, $2)

-- name: disconnect
select vespid_x_disconnect_executor($1, $2, $3)

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
