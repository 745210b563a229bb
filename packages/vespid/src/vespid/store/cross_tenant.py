"""The closed list of what may look across organizations.

Each function is owned by `vespid_cross`, a role that nobody can log in as and that row-level security does not bind;
the service role may only call it. Wherever one is told an organization, it compares it with the one that is stored. A
test compares this list with the catalogue: adding a function means adding a line here, and a reason.
"""

from typing import Final

_REASONS: Final = {
    # People and credentials.
    "vespid_x_user_organizations": "a user's own memberships, for /v1/me",
    "vespid_x_prune_idempotency_keys": "forgets answers that are older than their day",
    "vespid_x_find_webhook": "a hook's caller is known by nothing but its token",
    "vespid_x_secrets_to_rewrap": "rotation of the KEK reads wrapped data keys, never a value",
    "vespid_x_rewrap_secrets": "and puts the re-wrapped ones in place",
    # Executors of the managed pool, which belong to no organization.
    "vespid_x_issue_managed_executor": "the operator makes one",
    "vespid_x_list_managed_executors": "the operator looks at them",
    "vespid_x_change_managed_executor": "the operator drains or disables one",
    "vespid_x_revoke_managed_executor": "the operator retires one",
    # Connections: an executor is known by its token before its organization is.
    "vespid_x_authenticate_executor": "who holds this token",
    "vespid_x_hello_executor": "what it can do and already has",
    "vespid_x_connect_executor": "a new connection epoch fences the old socket",
    "vespid_x_announce_executor": "its edge has told Redis of it, compared by epoch",
    "vespid_x_is_revoked": "why a connection may not go on",
    "vespid_x_disconnect_executor": "the end of a connection, compared by epoch",
    "vespid_x_set_draining": "takes nothing new",
    # Executions: batches hold rows of many organizations, each compared with its own.
    "vespid_x_create_executions": "rows of requests that no run made",
    "vespid_x_read_execution": "a request by its id, for the organization that asks",
    "vespid_x_read_pending": "what waits to be offered",
    "vespid_x_read_ended": "which of these requests are terminal",
    "vespid_x_grant_executions": "leases to executors",
    "vespid_x_return_executions": "leases given back: declined or unsent",
    "vespid_x_refuse_execution": "the end of a wait that cannot be served",
    "vespid_x_note_waiting": "tells a run what it waits for",
    "vespid_x_finish_executions": "results, applied where they are received",
    "vespid_x_record_usage": "what models took to make them, under the organization that is stored",
    "vespid_x_append_remote_events": "events of executors, appended to their runs",
    "vespid_x_cancel_execution": "asks for the end of a request",
    "vespid_x_claim_cloud": "work whose holder is a server process",
    "vespid_x_keep_executions": "how far such work has come, fenced by process and epoch",
    "vespid_x_hand_over": "and what a process that stops leaves to another",
    "vespid_x_read_resume": "from where it goes on, compared with the organization it is told",
    "vespid_x_reported_tools": "what hosts offer to a loop, those of the managed pool too",
    "vespid_x_live_leases": "what an executor or the bus's rebuild must know",
    "vespid_x_revoke_leases": "what a revoked executor held",
    # Turns of sessions: their hosts may be managed executors, which belong to no organization.
    "vespid_x_lease_turns": "leases to hosts, each compared with its session's organization",
    "vespid_x_append_turn_events": "tool events of hosts, fenced by request and executor",
    "vespid_x_finish_turns": "answers of hosts, committed where they are received",
    "vespid_x_record_turn_usage": "what models took to make them, under the organization that is stored",
    "vespid_x_lose_turns": "hosts that are given up",
    "vespid_x_turns_of_executor": "what a lost or revoked host had",
    "vespid_x_attach_turns": "what a host that is back still has",
    "vespid_x_put_memory": "what the pinned host pushed",
    "vespid_x_is_cut_off": "whether a session's host went with its gateway; hosts may be managed",
    "vespid_x_live_turns": "what the bus's rebuild must know of sessions",
    # Sweeps: whoever runs one sweeps for all.
    "vespid_x_sweep_executions": "deadlines that have passed",
    "vespid_x_sweep_leases": "leases whose holders are lost",
    "vespid_x_sweep_processes": "server processes that are dead",
    "vespid_x_sweep_turns": "turns whose time has come",
    "vespid_x_renew_process": "a server process's own lease",
    "vespid_x_end_process": "a server process that stops in good order",
    "vespid_x_due_runs": "runs that somebody must step",
    "vespid_x_due_schedules": "cron triggers that are due",
    "vespid_x_ensure_event_partitions": "partitions for the events to come",
    "vespid_x_read_feed": "what every process must learn within a second",
    "vespid_x_trim_feed": "and forgets after an hour",
}

CROSS_TENANT_FUNCTIONS: Final = frozenset(_REASONS)

# Makes tables, which only the owner of the schema can; it reads no row.
RUN_AS_OWNER: Final = frozenset({"vespid_x_ensure_event_partitions"})

# Tables without row-level security: people and their logins, server processes, and the feed of ids.
TABLES_OF_NO_TENANT: Final = frozenset({"users", "auth_sessions", "refresh_tokens", "processes", "control_feed"})
