-- Rows of the control feed about people: every process learns within a second whose sockets and streams end.

-- name: announce
insert into control_feed (organization_id, kind, subject_id, payload) values ($1, $2, $3, $4)
