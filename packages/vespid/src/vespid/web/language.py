"""The languages of the pages: `messages/<tag>.toml`, looked up by dotted keys, filled in with `str.format`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# In the order in which they are offered; the first is what is spoken where none of them is asked for.
TAGS = ("en", "zh-CN")


@dataclass(frozen=True, slots=True)
class Language:
    """One language and its texts by key."""

    tag: str
    texts: Mapping[str, str]

    def text(self, key: str, **values: object) -> str:
        """The text of a key. `n` chooses between `<key>.one` and `<key>.other`. Raises KeyError for an unknown key."""
        if "n" in values and key not in self.texts:
            key = f"{key}.one" if values["n"] == 1 and f"{key}.one" in self.texts else f"{key}.other"
        text = self.texts[key]
        return text.format(**values) if values else text

    def optional(self, key: str) -> str | None:
        """The text of a key that need not be there."""
        return self.texts.get(key)


@cache
def language(tag: str) -> Language:
    """One of TAGS."""
    read = tomllib.loads(files("vespid.web").joinpath("messages", f"{tag}.toml").read_text("utf-8"))
    return Language(tag, dict(_flat(read)))


def choose_language(chosen: str | None, accepted: str | None) -> Language:
    """The visitor's own choice, else the best of the browser's `Accept-Language`, else the first of TAGS."""
    if chosen in TAGS:
        return language(chosen)
    for wanted in _by_preference(accepted or ""):
        for tag in TAGS:
            # `zh`, `zh-Hans` and `zh-CN` are all served by zh-CN.
            if wanted.split("-")[0] == tag.split("-")[0].lower():
                return language(tag)
    return language(TAGS[0])


def _by_preference(accepted: str) -> list[str]:
    ranked: list[tuple[float, str]] = []
    for part in accepted.split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((-float(weight or 1), tag.strip().lower()))
        except ValueError:
            continue
    return [tag for weight, tag in sorted(ranked, key=lambda item: item[0]) if tag and weight < 0]


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in table.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
