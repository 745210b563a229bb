"""A property list for launchd: an agent of the user, or a daemon of the system."""

from __future__ import annotations

import plistlib
from pathlib import Path

from vespid_agent.service.plan import MARK, Command, File, Plan, Service

# Between two starts of one that ends with a failure. launchd knows no status that is final, so one that the gateway
# refuses for good is tried again so seldom that it hurts nobody.
THROTTLE_S = 60


def plan(service: Service) -> Plan:
    label = label_of(service)
    if service.scope == "system":
        folder, domain = Path("/Library/LaunchDaemons"), "system"
    else:
        folder, domain = service.home / "Library/LaunchAgents", f"gui/{service.uid}"
    path, target = folder / f"{label}.plist", f"{domain}/{label}"
    return Plan(
        files=(File(path, plist_of(service)),),
        commands={
            "install": (
                Command(("launchctl", "bootout", target), may_fail=True),
                Command(("launchctl", "bootstrap", domain, str(path))),
            ),
            "uninstall": (Command(("launchctl", "bootout", target), may_fail=True),),
            "status": (Command(("launchctl", "print", target)),),
            "start": (Command(("launchctl", "kickstart", target)),),
            "stop": (Command(("launchctl", "kill", "SIGTERM", target)),),
        },
        hints=("It runs while you are logged in.",) if service.scope == "user" else (),
    )


def label_of(service: Service) -> str:
    return f"ai.vespid.{service.name}"


def plist_of(service: Service) -> bytes:
    """The property list."""
    content: dict[str, object] = {
        "Label": label_of(service),
        "ProgramArguments": [*service.command, "--log-to", "file"],
        "RunAtLoad": True,
        # A stop that was asked for is a success.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": THROTTLE_S,
        "ExitTimeOut": service.stop_s,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 65536, "Core": 0},
        "HardResourceLimits": {"NumberOfFiles": 65536, "Core": 0},
        # Its log is a file of its own; here is what it says before it can log.
        "StandardErrorPath": str(service.config.parent / f"{service.name}.err"),
        "WorkingDirectory": str(service.config.parent),
    }
    if service.scope == "system" and service.user:
        content["UserName"] = service.user
    made = plistlib.dumps(content, sort_keys=False)
    return made.replace(b"<plist ", f"<!-- {MARK}. -->\n<plist ".encode(), 1)
