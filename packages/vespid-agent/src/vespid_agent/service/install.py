"""Carrying out a plan: files of ours are written and removed, and the system's manager is told.

The only file here that knows the machine it is on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vespid_agent.service import env_file, launchd, systemd, windows
from vespid_agent.service.plan import MARK, Command, Plan, Scope, Service, ServiceInvalid, Verb
from vespid_agent.settings import AgentSettings

TOLD_WITHIN_S = 120


class ServiceFailed(Exception):
    """The system's manager refused, or a file is in the way; the message says why and what to do."""


def service_here(
    config: Path, settings: AgentSettings, environment: Mapping[str, str], name: str, scope: Scope | None
) -> Service:
    """This installation of the agent, for this user. Raises ServiceInvalid."""
    chosen: Scope = scope or ("system" if _is_root() else "user")
    if chosen == "system" and not _is_root():
        raise ServiceInvalid("a service of the system is installed by its administrator: sudo, or leave out --system")
    return Service(
        name=name,
        scope=chosen,
        program=program(),
        config=config,
        env_file=env_file.path_of(config, name),
        user=_user(config, environment),
        uid=_uid(),
        home=Path.home(),
        drain_ms=settings.drain_ms,
        is_walled=settings.exec_backend in ("docker", "bubblewrap") and not _is_setuid("bwrap"),
    )


def program() -> tuple[str, ...]:
    """How this very agent is started again."""
    if getattr(sys, "frozen", False):
        return (sys.executable,)
    return (sys.executable, "-m", "vespid_agent")


def plan_here(service: Service, environment: Mapping[str, str]) -> Plan:
    """With the manager of this system."""
    if sys.platform == "win32":
        return windows.plan(service)
    if sys.platform == "darwin":
        return launchd.plan(service)
    config_home = environment.get("XDG_CONFIG_HOME")
    return systemd.plan(service, Path(config_home) if config_home else None)


def install(service: Service, plan: Plan, variables: Mapping[str, str]) -> Iterator[str]:
    """Tells each step. `variables`: kept for the service, unless it has a file of them. Raises ServiceFailed."""
    _require_manager(plan)
    for file in plan.files:
        _check_ours(file.path)
    if env_file.write_new(service.env_file, variables):
        yield f"wrote {service.env_file}: {', '.join(variables) or 'nothing is set'}"
    else:
        yield f"kept {service.env_file}"
    if service.scope == "system" and service.user and sys.platform != "win32":
        shutil.chown(service.env_file, service.user)
    for file in plan.files:
        _write(file.path, file.content)
        yield f"wrote {file.path}"
    yield from _tell(plan.commands["install"])
    yield from plan.hints


def uninstall(service: Service, plan: Plan) -> Iterator[str]:
    """Removes what `install` made and nothing else: identity, journal and logs stay. Raises ServiceFailed."""
    _require_manager(plan)
    there = [file.path for file in plan.files if file.path.exists()]
    if not there:
        raise ServiceFailed(f"there is no such service: {plan.files[0].path} does not exist")
    for path in there:
        _check_ours(path)
    yield from _tell(plan.commands["uninstall"])
    for path in there:
        path.unlink()
        yield f"removed {path}"
    if env_file.remove_ours(service.env_file):
        yield f"removed {service.env_file}"
    yield from _tell(plan.after_removal)


def tell(plan: Plan, verb: Verb) -> int:
    """Have the manager do it, with its own words for the user; its status. Raises ServiceFailed."""
    _require_manager(plan)
    status = 0
    for command in plan.commands[verb]:
        status = status or subprocess.run(command.words, check=False, timeout=None).returncode
    return status


def _tell(commands: tuple[Command, ...]) -> Iterator[str]:
    for command in commands:
        done = subprocess.run(
            command.words, check=False, capture_output=True, text=True, errors="replace", timeout=TOLD_WITHIN_S
        )
        words = subprocess.list2cmdline(command.words)
        if done.returncode != 0 and not command.may_fail:
            said = (done.stderr or done.stdout).strip()
            raise ServiceFailed(f"`{words}` ended with status {done.returncode}: {said}")
        yield f"did {words}"


def _require_manager(plan: Plan) -> None:
    manager = plan.commands["install"][0].words[0]
    if shutil.which(manager) is None:
        raise ServiceFailed(
            f"{manager} is not here. Have what starts programs on this machine run what --dry-run shows."
        )


def _check_ours(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not _is_ours(path.read_bytes())):
        raise ServiceFailed(f"{path} was not made by this command. Move it away, or give another --name.")


def _is_ours(content: bytes) -> bool:
    return MARK.encode() in content or MARK.encode("utf-16-le") in content


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise ServiceFailed(f"{path} cannot be written: {error.strerror}") from error


def _uid() -> int:
    if sys.platform == "win32":
        return 0
    return os.getuid()


def _is_root() -> bool:
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0


def _user(config: Path, environment: Mapping[str, str]) -> str:
    """Whose the config is: an administrator installs for others."""
    if sys.platform == "win32":
        return f"{environment.get('USERDOMAIN', '')}\\{environment.get('USERNAME', '')}".lstrip("\\")
    import pwd

    try:
        return pwd.getpwuid(config.stat().st_uid).pw_name
    except (FileNotFoundError, KeyError):
        return ""


def _is_setuid(name: str) -> bool:
    """It could not gain what it needs in a service without new privileges."""
    found = shutil.which(name)
    return found is not None and bool(os.stat(found).st_mode & 0o4000)
