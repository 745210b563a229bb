"""`docs/protocol.md` says what the code says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vespid_protocol.client_frames import ServerFrame
from vespid_protocol.codec import Unknown, decode_agent_frame, decode_client_frame, decode_gateway_frame
from vespid_protocol.reference import render

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"
Readers = dict[str, Callable[[str], object]]


def test_made_parts_of_the_page_are_up_to_date() -> None:
    page = PAGE.read_text()
    assert page.count("<!-- made:") == 12
    assert render(page) == page, "run: python -m vespid_protocol.reference < docs/protocol.md"


def test_every_example_frame_on_the_page_is_a_frame() -> None:
    page, clients = PAGE.read_text().split("## The client socket")
    executors: Readers = {"→": decode_agent_frame, "←": decode_gateway_frame}
    members: Readers = {"→": decode_client_frame, "←": msgspec.json.Decoder(ServerFrame).decode}
    for part, readers in ((page, executors), (clients, members)):
        examples = re.findall(r"^(→|←) (\{.*)$", part, re.MULTILINE)
        assert len(examples) >= 8
        for direction, example in examples:
            assert not isinstance(readers[direction](example), Unknown)


def test_a_part_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(KeyError):
        render("<!-- made: nothing -->\n<!-- end -->")
