"""`docs/protocol.md` says what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vespid_protocol.codec import Unknown, decode_agent_frame, decode_gateway_frame
from vespid_protocol.reference import render

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_made_parts_of_the_page_are_up_to_date() -> None:
    page = PAGE.read_text()
    assert page.count("<!-- made:") == 10
    assert render(page) == page, "run: python -m vespid_protocol.reference < docs/protocol.md"


def test_every_example_frame_on_the_page_is_a_frame() -> None:
    examples = re.findall(r"^(→|←) (\{.*\})$", PAGE.read_text(), re.MULTILINE)
    assert len(examples) > 8
    for direction, example in examples:
        json.loads(example)
        frame = decode_agent_frame(example) if direction == "→" else decode_gateway_frame(example)
        assert not isinstance(frame, Unknown)


def test_a_part_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(KeyError):
        render("<!-- made: nothing -->\n<!-- end -->")
