"""What the agent needs of its machine: its files and their rights, disk, descriptors, versions."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vespid_agent import __version__, config, files
from vespid_agent.config import AgentConfig, ConfigError
from vespid_agent.doctor.finding import Finding, fail, ok, warn
from vespid_agent.settings import AgentSettings
from vespid_agent.status.reading import Reading, Verdict
from vespid_protocol.frames import PROTOCOL_VERSION

GIB = 1024**3
# Below, the agent may be unable to journal soon; it declines work then.
FULL_BYTES = 64 * 1024 * 1024
SCARCE_BYTES = GIB
# Of a journal; a larger one takes too long.
CHECKED_MAX_BYTES = 256 * 1024 * 1024
# Each running task holds some; the link, the journal and servers of tools a few more.
DESCRIPTORS_MIN = 1024


def versions() -> Finding:
    made = "one executable" if getattr(sys, "frozen", False) else f"Python {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return ok("version", f"vespid-agent {__version__} ({made}), protocol {PROTOCOL_VERSION}, on {system}")


def identity(path: Path) -> tuple[AgentConfig | None, list[Finding]]:
    """The config as it is read at start, and what is wrong with it and its folder."""
    warnings: list[str] = []
    try:
        found = config.load(path, warnings.append)
    except ConfigError as error:
        return None, [fail("config", str(error))]
    about = [warn("config", text, "It was mended. Ask who could read it.") for text in warnings]
    about = about or [ok("config", f"{path}: {found.name or found.executor_id} ({found.executor_id})")]
    return found, [*about, *_folder(path.parent)]


def _folder(folder: Path) -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022 and not mode & stat.S_ISVTX:
        mend = f"chmod go-w {folder}"
        yield warn("folder", f"{folder} can be written by others (mode {mode:04o}): they can replace its files", mend)


def journal(config_file: Path, who: AgentConfig, reading: Reading) -> Finding:
    """Whether it can be read and written. One that is in use is judged by the process that uses it."""
    path = files.journal_path(config_file, who.executor_id)
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor.", dir=path.parent) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        return fail("journal", f"{path.parent} cannot be written: {error.strerror}", "Give its user that folder.")
    if not path.exists():
        return ok("journal", f"{path} is made at the first start")
    if not os.access(path, os.W_OK):
        return fail("journal", f"{path} cannot be written", f"Give it to the agent's user: chown <user> '{path}'")
    size = path.stat().st_size
    said = f"{path}, {size // 1024} KiB"
    if reading.verdict is not Verdict.STOPPED:
        kept = None if reading.state is None else reading.state.journal
        if kept is not None and not kept.healthy:
            return fail("journal", f"{said}: the running agent cannot write it", "Make room on the disk.")
        return ok("journal", f"{said}, in use by the running agent")
    if size > CHECKED_MAX_BYTES:
        return ok("journal", f"{said}, too large to be looked through here")
    damage = _damage(path)
    if damage is not None:
        mend = "Move the file away: the agent starts with a new memory (docs/agent.md)."
        return fail("journal", f"{path} is damaged: {damage}", mend)
    return ok("journal", f"{said}, intact")


def _damage(path: Path) -> str | None:
    """Of a copy: an agent that starts meanwhile finds its file free."""
    with tempfile.TemporaryDirectory(prefix="vespid-doctor-") as folder:
        copy = Path(folder) / path.name
        try:
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            opened = sqlite3.connect(copy)
            try:
                (said,) = opened.execute("pragma quick_check(1)").fetchone()
            finally:
                opened.close()
        except (OSError, sqlite3.Error) as error:
            return str(error)
    return None if said == "ok" else str(said)


def disk(check: str, folder: Path) -> Finding:
    """The room where that folder is, or will be."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    said = f"{free / GIB:.1f} GiB free for {folder}"
    if free < FULL_BYTES:
        return fail(check, said, "Make room: an agent that cannot write declines work.")
    return warn(check, said, "Make room before it is full.") if free < SCARCE_BYTES else ok(check, said)


def descriptors() -> Iterator[Finding]:
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"at most {'any number of' if soft == resource.RLIM_INFINITY else soft} open files"
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_MIN:
        mend = f"ulimit -n {DESCRIPTORS_MIN * 4} before the start, or LimitNOFILE= of the service (hard limit: {hard})"
        yield warn("descriptors", said, mend)
    else:
        yield ok("descriptors", said)


def ca_file(settings: AgentSettings) -> Iterator[Finding]:
    """The private authority: whether it can be used, and when it ends."""
    if settings.tls_ca_file is None:
        return
    import ssl

    from vespid_agent.doctor.certificates import days_left
    from vespid_agent.network import NetworkMisconfigured, tls_context

    try:
        tls_context(settings.tls_ca_file)
    except NetworkMisconfigured as error:
        yield fail("ca", str(error), "Name a PEM file that holds the authority's certificate.")
        return
    alone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    alone.load_verify_locations(settings.tls_ca_file)
    found = alone.get_ca_certs()
    ended = [authority for authority in found if days_left(str(authority.get("notAfter", ""))) < 0]
    if ended:
        mend = "Put the authority's present certificate into the file."
        yield warn("ca", f"{settings.tls_ca_file}: {len(ended)} of {len(found)} authorities have expired", mend)
    else:
        yield ok("ca", f"{settings.tls_ca_file}: {len(found)} authorities, trusted beside the system's")


def process(reading: Reading) -> Finding:
    """The running agent, as it tells of itself."""
    state = reading.state
    match reading.verdict:
        case Verdict.STOPPED:
            return warn("process", "the agent does not run", "vespid-agent start, or vespid-agent service install")
        case Verdict.HANGS:
            mend = "End it (kill -9) and start it again: its journal keeps what it was given."
            return fail("process", f"pid {reading.pid}: {reading.problem}", mend)
        case Verdict.UNLINKED:
            return fail("process", f"pid {reading.pid} has no link: {reading.problem}", "See the lines of the gateway.")
    if state is not None and state.version != __version__:
        said = f"pid {reading.pid} is version {state.version}, installed is {__version__}"
        return warn("process", said, "Restart it: SIGTERM lets running work finish.")
    return ok("process", f"pid {reading.pid}: {reading.verdict.value}")


def tools(reading: Reading) -> Iterator[Finding]:
    """What the running agent found wrong with its skills and MCP servers."""
    if reading.state is None or reading.verdict in (Verdict.STOPPED, Verdict.HANGS):
        return
    told = reading.state.tools
    for problem in told.problems:
        yield warn("tools", f"{problem.id}: {problem.problem}")
    if not told.problems:
        yield ok("tools", f"{told.skills} skills and {told.mcp} tools of MCP servers, no problems")
