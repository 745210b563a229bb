"""`vespid-agent doctor`: a line as soon as it is known, or one JSON document at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import typer

from vespid_agent.console import out, plain
from vespid_agent.doctor.examination import Asked, examine
from vespid_agent.doctor.finding import Finding
from vespid_agent.exit_code import ExitCode

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


async def run(
    config_file: Path,
    environment: Mapping[str, str],
    api_base: str | None,
    gateway_ws_url: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    """FAILED where anything did."""
    found: list[Finding] = []
    async for finding in examine(Asked(config_file, environment, api_base, gateway_ws_url)):
        found.append(finding)
        if not as_json:
            _print(finding)
    levels = [finding.level for finding in found]
    failed, warned = levels.count("fail"), levels.count("warn")
    if as_json:
        typer.echo(msgspec.json.encode({"ok": not failed, "findings": found}).decode())
    else:
        out.print(f"\n{len(found)} checks: {failed} failed, {warned} to look at")
    return ExitCode.FAILED if failed else ExitCode.STOPPED


def _print(finding: Finding) -> None:
    level = f"[{_COLOURS[finding.level]}]{finding.level:<4}[/]"
    out.print(f"{level}  {plain(_line(finding.check)):<26} {plain(_line(finding.found))}")
    if finding.mend is not None:
        out.print(f"      {'':<26} → {plain(_line(finding.mend))}")


def _line(text: str) -> str:
    """Only printable characters: what others say may not speak to the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
