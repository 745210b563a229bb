"""The texts of the pages: the same in every language, and none missing."""

import re
from importlib.resources import files
from string import Formatter

import pytest

from vespid.web.language import TAGS, choose_language, language

_USED = re.compile(r"""\bt\(\s*"([a-z0-9_.]+)"(?=\s*[,)])""")
_TOLD = re.compile(r"""\.(?:tell|text)\(\s*"([a-z0-9_.]+)"(?=\s*[,)])""")


def test_every_language_has_every_text_with_the_same_places() -> None:
    english = language("en").texts
    for tag in TAGS:
        texts = language(tag).texts
        assert sorted(texts) == sorted(english)
        for key, text in texts.items():
            assert _places(text) == _places(english[key]), key


def test_every_text_that_a_page_uses_is_there() -> None:
    here = files("vespid.web")
    known = language("en").texts
    used = {key for file in _templates(here.joinpath("templates")) for key in _USED.findall(file)}
    used |= {
        key for file in here.iterdir() if file.name.endswith(".py") for key in _TOLD.findall(file.read_text("utf-8"))
    }
    assert used
    assert [key for key in sorted(used) if key not in known and f"{key}.other" not in known] == []


@pytest.mark.parametrize(
    ("chosen", "accepted", "tag"),
    [
        (None, None, "en"),
        (None, "zh", "zh-CN"),
        (None, "de, en;q=0.3, zh-TW;q=0.7", "zh-CN"),
        (None, "zh;q=0", "en"),
        (None, ";;q=x, zh", "zh-CN"),
        ("en", "zh", "en"),
        ("xx", "zh", "zh-CN"),
    ],
)
def test_the_best_language_is_chosen(chosen: str | None, accepted: str | None, tag: str) -> None:
    assert choose_language(chosen, accepted).tag == tag


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _templates(folder: object) -> list[str]:
    found: list[str] = []
    for entry in folder.iterdir():  # type: ignore[attr-defined]
        found += _templates(entry) if entry.is_dir() else [entry.read_text("utf-8")]
    return found
