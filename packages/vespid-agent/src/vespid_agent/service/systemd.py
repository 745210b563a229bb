"""A unit for systemd: of the user's own manager, or of the system's."""

from __future__ import annotations

from pathlib import Path

from vespid_agent.service.plan import MARK, Command, File, Plan, Service, ServiceInvalid

# Where a stop or a failure means that a person has to look (`cli.py` is the table); 70, a fault of ours, is not here.
_FINAL = "1 2 3 4"

# What a unit forbids its service, it forbids the service's tasks too: `sudo` would end, and whatever covers a part of
# /proc (ProtectKernelTunables, ProtectKernelLogs, ProtectHostname, ProtectProc) or forbids namespaces ends bubblewrap.
# What is below does neither; walls around tasks are the sandboxes' own.
_HARDENED = """\
UMask=0077
LimitCORE=0
"""
# And where no task runs on the bare machine. No PrivateTmp: docker mounts folders that it must find by their names.
_WALLED = """\
NoNewPrivileges=yes
ProtectSystem=full
"""


def plan(service: Service, config_home: Path | None = None) -> Plan:
    """`config_home`: XDG_CONFIG_HOME, for a unit of the user."""
    unit = f"{service.name}.service"
    control = ("systemctl",) if service.scope == "system" else ("systemctl", "--user")
    if service.scope == "system":
        folder = Path("/etc/systemd/system")
    else:
        folder = (config_home or service.home / ".config") / "systemd/user"
    hints: tuple[str, ...] = ()
    if service.scope == "user":
        hints = ("It runs while you are logged in. For always: loginctl enable-linger",)
    return Plan(
        files=(File(folder / unit, unit_of(service).encode()),),
        commands={
            "install": (
                Command((*control, "daemon-reload")),
                Command((*control, "enable", unit)),
                Command((*control, "restart", unit)),
            ),
            "uninstall": (Command((*control, "disable", "--now", unit), may_fail=True),),
            "status": (Command((*control, "--no-pager", "--lines=0", "status", unit)),),
            "start": (Command((*control, "start", unit)),),
            "stop": (Command((*control, "stop", unit)),),
        },
        after_removal=(Command((*control, "daemon-reload")),),
        hints=hints,
    )


def unit_of(service: Service) -> str:
    """The unit's text. Raises ServiceInvalid."""
    if set(service.program[0]) & set("\"'\\"):
        raise ServiceInvalid(f"systemd starts no program with a quote or a backslash in its path: {service.program[0]}")
    is_system = service.scope == "system"
    network = "Wants=network-online.target\nAfter=network-online.target\n" if is_system else ""
    user = f"User={_literal(service.user)}\n" if is_system and service.user else ""
    walled = _WALLED if service.is_walled else ""
    words = " ".join(_word(word) for word in service.command)
    return f"""\
# {MARK}.
[Unit]
Description=Vespid node-agent
{network}StartLimitIntervalSec=0

[Service]
Type=exec
{user}# The colon: no `$` in it is a variable.
ExecStart=:{words}
Restart=always
RestartSec=5
# The gateway refused it for good, or its settings or identity are not usable: that needs a person.
RestartPreventExitStatus={_FINAL}
# SIGTERM to the agent alone: it lets its tasks finish, within VESPID_AGENT_DRAIN_MS.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={service.stop_s}
# Tasks under bubblewrap get control groups of their own, and one that has used up the memory ends alone.
Delegate=yes
OOMPolicy=continue
LimitNOFILE=65536
{_HARDENED}{walled}
[Install]
WantedBy={"multi-user.target" if is_system else "default.target"}
"""


def _word(text: str) -> str:
    """One word of a command line, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_literal(escaped)}"'


def _literal(text: str) -> str:
    """`%` begins a specifier everywhere."""
    return text.replace("%", "%%")
