"""Where the pages are: what the side of each page lists, in groups, with the role that a page takes."""

# (path, key of its name, the least role)
NAVIGATION: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("/", "overview", "member"),),
    (
        ("/workflows", "workflows", "member"),
        ("/runs", "runs", "member"),
        ("/sessions", "sessions", "member"),
        ("/approvals", "approvals", "member"),
        ("/agents", "agents", "admin"),
    ),
    (
        ("/secrets", "secrets", "admin"),
        ("/members", "members", "member"),
        ("/api-keys", "api_keys", "admin"),
        ("/usage", "usage", "member"),
        ("/audit-log", "audit_log", "admin"),
        ("/settings", "settings", "member"),
    ),
)
