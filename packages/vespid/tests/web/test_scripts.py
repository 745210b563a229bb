"""The scripts of pages by themselves, in a real browser: output of terminals, a run's timeline, places in JSON."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route
from tests.support.browser import browser

from vespid.web.assets import assets

__all__ = ["browser"]

ORIGIN = "http://scripts.invalid"
ESC = "\x1b"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest_asyncio.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """An empty page from which the scripts can be imported; nothing is asked of any server."""
    context = await browser.new_context()

    async def answer(route: Route) -> None:
        name = route.request.url.removeprefix(f"{ORIGIN}/")
        kind, body = ("text/javascript", assets()[name].plain) if name else ("text/html", b"")
        await route.fulfill(content_type=kind, body=body)

    await context.route("**", answer)
    opened = await context.new_page()
    await opened.goto(f"{ORIGIN}/")
    yield opened
    await context.close()


async def with_script(page: Page, name: str, body: str, given: object) -> Any:
    """What `body` returns, with the module as `script` and `given`."""
    return await page.evaluate(f"async (given) => {{ const script = await import('/{name}'); {body} }}", given)


async def shown(page: Page, *writes: tuple[str, str] | str) -> list[Any]:
    """What a terminal shows: a list of [classes, text] for each line, one per stretch of a style."""
    body = """
      const terminal = new script.Terminal(document.createElement("div"), () => {});
      for (const [text, stream] of given) terminal.write(text, stream);
      const shown = (line) => [...line.children].map((one) => [one.className, one.textContent]);
      return [...terminal.element.children].map(shown);
    """
    return list(
        await with_script(page, "ansi.js", body, [one if isinstance(one, tuple) else (one, "stdout") for one in writes])
    )


async def test_colours_and_weight_are_shown_and_all_else_is_dropped(page: Page) -> None:
    for written, classes in (
        (f"{ESC}[31mx", "fg-1"),
        (f"{ESC}[1;4;92;44mx", "fg-10 bg-4 ansi-bold ansi-underline"),
        (f"{ESC}[38;5;9mx", "fg-9"),
        (f"{ESC}[38;5;196mx", "fg-9"),
        (f"{ESC}[48;2;10;20;200mx", "bg-4"),
        (f"{ESC}[31m{ESC}[39mx", ""),
        (f"{ESC}[1;31m{ESC}[mx", ""),
        # Not of ours: dropped, and nothing else with it.
        (f"{ESC}[2J{ESC}[10;5H{ESC}[?25lx", ""),
        (f"{ESC}]0;a title\x07{ESC}]8;;https://example.com{ESC}\\x{ESC}]8;;{ESC}\\", ""),
        (f"{ESC}[38;5;999mx", ""),
        (f"{ESC}(B{ESC}[mx{ESC}7{ESC}8{ESC}=", ""),
    ):
        assert await shown(page, written) == [[[classes, "x"]]], written


async def test_lines_are_overwritten_as_a_terminal_does(page: Page) -> None:
    assert await shown(page, "10 %\r20 %\r\nnext\n") == [[["", "20 %"]], [["", "next"]], []]
    assert await shown(page, f"gone{ESC}[2Kkept") == [[["", "kept"]]]


async def test_markup_in_output_is_text(page: Page) -> None:
    assert await shown(page, HOSTILE) == [[["", HOSTILE]]]


async def test_each_stream_begins_a_line_of_its_own(page: Page) -> None:
    assert await shown(page, ("out", "stdout"), ("err", "stderr")) == [[["", "out"]], [["", "err"]]]


async def test_a_text_is_shown_alike_however_it_is_cut(page: Page) -> None:
    whole = (
        f"a{ESC}[1;31mred{ESC}[0m b\r\n{ESC}]8;;http://x{ESC}\\link{ESC}]8;;{ESC}\\ {ESC}[38;2;1;2;200mblue{ESC}[m\rc\n"
    )
    expected = await shown(page, whole)
    for _ in range(40):
        cuts = sorted(random.sample(range(1, len(whole)), 5))
        pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        assert await shown(page, *pieces) == expected, pieces


async def test_a_terminal_keeps_its_last_lines_and_says_what_it_cut(page: Page) -> None:
    body = """
      const cuts = [];
      const terminal = new script.Terminal(document.createElement("div"), (cut) => cuts.push(cut));
      terminal.write(given);
      const lines = terminal.element.children;
      return [lines.length, lines[0].textContent, cuts.at(-1)];
    """
    lines = [f"line {number}\n" for number in range(3_000)]
    kept, first, cut = await with_script(page, "ansi.js", body, "".join(lines))
    # The last is the empty one behind the last newline.
    assert (kept, first, cut) == (2_000, "line 1001", len("".join(lines[:1001])))
    # A line that never ends is broken.
    assert [len(line[0][1]) for line in await shown(page, "x" * 9_000)] == [4_000, 4_000, 1_000]


async def test_a_node_is_what_its_last_event_made_of_it(page: Page) -> None:
    body = """
      const timeline = new script.Timeline(0);
      for (const [at, eventType, nodeId, payload] of given) {
        timeline.hear({ eventType, nodeId, message: "", payload }, at);
      }
      for (const node of timeline.nodes.values()) node.took = timeline.took(node, 1000);
      return Object.fromEntries(timeline.nodes);
    """
    nodes = await with_script(
        page,
        "timeline.js",
        body,
        [
            (0, "run_started", None, {}),
            (10, "node_started", "a", {}),
            (20, "node_waiting", "a", {"reason": "ALL_FULL"}),
            (50, "node_dispatched", "a", {}),
            (90, "node_retried", "a", {"attemptCount": 1, "error": "HOST_EXIT_CODE:1"}),
            (100, "node_dispatched", "a", {}),
            (160, "node_succeeded", "a", {}),
            (160, "node_taken_over", "b", {"status": "skipped"}),
            (170, "node_dispatched", "c", {}),
            (180, "run_cancelled", None, {}),
        ],
    )
    parts = [(part["kind"], part["from"], part["to"]) for part in nodes["a"]["parts"]]
    assert parts == [
        ("running", 10, 20),
        ("waiting", 20, 50),
        ("failed", 50, 90),
        ("waiting", 90, 100),
        ("succeeded", 100, 160),
    ]
    assert (nodes["a"]["status"], nodes["a"]["tries"], nodes["a"]["took"]) == ("succeeded", 2, 150)
    assert (nodes["b"]["status"], nodes["b"]["took"]) == ("skipped", None)
    # The end of the run is the end of what ran in it.
    assert nodes["c"]["parts"] == [{"kind": "running", "from": 170, "to": 180}]


async def test_durations_are_read_as_people_say_them(page: Page) -> None:
    given = [None, 0, 999, 1_000, 59_949, 59_960, 60_000, 119_700, 3_599_700, 3_600_000, 7_380_000]
    assert await with_script(page, "timeline.js", "return given.map(script.duration);", given) == [
        *("", "0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 0 s", "1 min 0 s", "2 min 0 s"),
        *("1 h 0 min", "1 h 0 min", "2 h 3 min"),
    ]


async def test_values_are_found_at_their_places(page: Page) -> None:
    text = '{"nodes": [{"id": "a"}, {"id": [1, -2.5e3, "\\u00e9\\""]}], "__proto__": {"of": null}}'
    body = "const {value, places} = script.read(given); return [JSON.stringify(value), [...places]];"
    value, places = await with_script(page, "json-places.js", body, text)
    assert json.loads(value) == json.loads(text)
    found = {path: text[start:end] for path, (start, end) in places}
    assert found["nodes.1.id.1"] == "-2.5e3"
    assert found["nodes.0"] == '{"id": "a"}'
    assert found["__proto__"] == '{"of": null}'
    assert found[""] == text


async def test_what_is_not_json_is_refused_where_it_goes_wrong(page: Page) -> None:
    body = "try { script.read(given); return null; } catch (error) { return error.at; }"
    wrong = (("", 0), ("{", 1), ('{"a" 1}', 5), ("[1,]", 3), ('["\n"]', 1), ("01", 1), ("nul", 0), ("{} x", 3))
    for text, at in wrong:
        assert await with_script(page, "json-places.js", body, text) == at
        with pytest.raises(ValueError, match=r"Expecting|Extra|control"):
            json.loads(text)
