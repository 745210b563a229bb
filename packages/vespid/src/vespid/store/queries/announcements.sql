-- Rows of the control feed about people and organizations: every process learns within a second whose sockets and streams
-- end, and what it knows no longer.

-- name: announce
insert into control_feed (organization_id, kind, subject_id, payload) values ($1, $2, $3, $4)
