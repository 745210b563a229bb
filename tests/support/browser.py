"""Debian's Chromium, driven by Playwright, for tests that look at the pages as people do.

`VESPID_TEST_BROWSER=require` makes a missing one an error (CI); else the tests that need it say so and are skipped.
`VESPID_SCREENSHOTS` names the folder of the pictures; without it they are in `.state/screenshots`.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Error, Locator, Page, Request, async_playwright, expect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = Path(os.environ.get("VESPID_SCREENSHOTS") or Path(__file__).parents[2] / ".state" / "screenshots")
WIDE, NARROW = (1280, 900), (360, 780)
WITHIN_MS = 30_000
# Of axe's four, those that nobody may be left with.
GRAVE = ("serious", "critical")

# Five seconds, unless told otherwise: too few on a busy machine.
expect.set_options(timeout=WITHIN_MS)


class Person:
    """Somebody at a browser. What its console complains of is kept, but for answers that a test asks for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.bytes_of: dict[str, int] = {}
        page.set_default_timeout(WITHIN_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfinished", self._weigh)

    async def open(self, path: str) -> None:
        """Go to a page of ours."""
        await self.page.goto(self.url + path)

    def one(self, selector: str) -> Locator:
        """The first element of that selector."""
        return self.page.locator(selector).first

    async def reads(self, text: str) -> None:
        """Wait until the page says this."""
        await self.page.get_by_text(text).first.wait_for(state="visible")

    async def look(self, name: str) -> None:
        """A picture in light and in dark, and one of a telephone; in neither does axe find anything grave."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for scheme, (width, height) in (("light", WIDE), ("dark", WIDE), ("narrow", NARROW)):
            await self.page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
            await self.page.set_viewport_size({"width": width, "height": height})
            await self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", animations="disabled")
            found = (await Axe().run(self.page)).response["violations"]
            grave = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found if one["impact"] in GRAVE]
            assert grave == [], f"{name}, {scheme}"
            sideways = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert sideways <= 0, f"{name}, {scheme}: wider than the screen by {sideways} px"
        await self.page.emulate_media(color_scheme="light")
        await self.page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})

    def _hear(self, message: ConsoleMessage) -> None:
        # The browser notes every answer of 4xx; what a page says of it is what is tested.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    async def _weigh(self, request: Request) -> None:
        try:
            sizes = await request.sizes()
        except Error:
            # The page was left before it was all here.
            return
        self.bytes_of[request.url] = sizes["responseBodySize"] + sizes["responseHeadersSize"]


def chromium() -> str | None:
    """Where the browser is."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A browser while it is needed."""
    async with async_playwright() as playwright:
        # Its own sandbox needs rights that root in a container has not.
        started = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        await started.close()


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser of this test's own."""
    if chromium() is None:
        if os.environ.get("VESPID_TEST_BROWSER") == "require":
            pytest.fail("there is no Chromium here (Debian's package `chromium`)")
        pytest.skip("there is no Chromium here (Debian's package `chromium`)")
    async with launched() as started:
        yield started
