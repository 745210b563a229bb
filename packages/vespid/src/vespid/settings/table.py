"""`docs/settings.md`, made from the declarations: `python -m vespid.settings.table` prints it."""

import sys

from vespid.settings import ApiSettings, EngineRunnerSettings, GatewaySettings, ProcessSettings, WorkerSettings
from vespid.settings.reading import Declared, Need, allowed_range, declared

PROCESSES: dict[str, type[ProcessSettings]] = {
    "api": ApiSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "engine-runner": EngineRunnerSettings,
}

_HEAD = """\
# Settings

Every process reads its environment once, when it starts. This page is made from the declarations in `vespid.settings`
(`make docs`), and a test fails when the two differ. The agent's own variables are in `agent.md`.

An empty variable counts as not set. A number outside its range is clamped, and the log says so; any other value that
does not fit keeps the process from starting, and the message names the variable, the value and what is allowed.
With `VESPID_ENV=production`, the default, a process refuses to start without a value of its own where *needed* says
`in production`.

"""


def settings_page() -> str:
    """The whole page."""
    return _HEAD + "".join(_section(process, settings) for process, settings in PROCESSES.items()).rstrip() + "\n"


def _section(process: str, settings: type[ProcessSettings]) -> str:
    rows = "".join(_row(row) for row in declared(settings))
    return (
        f"## vespid {process}\n\n| variable | default | allowed | needed | meaning |\n|---|---|---|---|---|\n{rows}\n"
    )


def _row(row: Declared) -> str:
    setting = row.setting
    need = "" if setting.need is Need.NEVER else setting.need.value
    if setting.roles:
        need += f", role {' or '.join(setting.roles)}"
    cells = (f"`{setting.variable}`", _default(row), allowed_range(row.kind, setting), need, setting.doc)
    return "| " + " | ".join(cells) + " |\n"


def _default(row: Declared) -> str:
    value = row.default
    if row.setting.secret or value in ("", (), None):
        return ""
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{','.join(value)}`" if isinstance(value, tuple) else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
