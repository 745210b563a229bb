"""What pages make of agents and of a pairing: pure functions over what the API answered.

The commands of a download are the API's, which are the runbook's, word for word; the token is put in here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"\d+")
# Where the API's commands have a place for the token.
_TOKEN = "<token>"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get an agent: what to type into a shell, line by line."""

    id: str
    commands: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.commands)


@dataclass(frozen=True, slots=True)
class TagGroup:
    """Agents that have a tag; the empty tag: those that have none."""

    tag: str
    agents: tuple[Mapping[str, Any], ...]
    online: int
    in_flight: int
    capacity: int


def connect_command(token: str, api_base: str, program: str = "vespid-agent") -> str:
    """What pairs an agent that is there already."""
    return f'{program} connect --pairing-token "{token}" --api-base "{api_base}"'


def ways_to_pair(installer: Mapping[str, Any] | None, token: str, api_base: str) -> list[Way]:
    """One per download, then from a checkout; `installer` None: there are no downloads."""
    ways = [
        Way(artifact["platformId"], tuple(line.replace(_TOKEN, token) for line in artifact["commands"]))
        for artifact in (installer or {}).get("artifacts", ())
    ]
    if installer is None:
        ways.append(Way("connect", (connect_command(token, api_base),)))
    return [*ways, Way("checkout", ("make install", connect_command(token, api_base, ".venv/bin/vespid-agent")))]


def is_older(version: str | None, than: str) -> bool:
    """Whether an agent's version comes before the server's; one that says none, or no numbers, does not."""
    own, other = (_numbers(text) for text in (version or "", than))
    return bool(own) and own < other


def by_tag(agents: Sequence[Mapping[str, Any]]) -> list[TagGroup]:
    """Agents that are not revoked, by each of their tags: the largest group first, the untagged last."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for agent in agents:
        if agent["status"] != "revoked":
            for tag in agent["tags"] or [""]:
                groups.setdefault(tag, []).append(agent)
    ranked = sorted(groups.items(), key=lambda item: (item[0] == "", -len(item[1]), item[0]))
    return [_group(tag, members) for tag, members in ranked]


def standing(agent: Mapping[str, Any]) -> str:
    """How an agent stands in one word: what is cordoned counts as that."""
    if agent["status"] != "revoked" and agent["cordoned"]:
        return "cordoned"
    status: str = agent["status"]
    return status


def _group(tag: str, agents: Sequence[Mapping[str, Any]]) -> TagGroup:
    online = [agent for agent in agents if standing(agent) == "online"]
    return TagGroup(
        tag,
        tuple(agents),
        len(online),
        sum(agent["inFlight"] for agent in agents),
        sum(agent["maxInFlight"] for agent in online),
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(version.partition("+")[0])[:3]]
