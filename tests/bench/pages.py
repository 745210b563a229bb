"""What a visitor waits for: a page with everything on it, in Debian's Chromium, with nothing cached.

From the beginning of the navigation to the end of its `load` event, by the browser's own clock. The floor is the same
browser's navigation to an answer of one line (`/healthz`).
"""

import statistics

from playwright.async_api import Browser, StorageState
from tests.bench.floors import Floors
from tests.bench.installation import Installation
from tests.bench.report import Figure, figure
from tests.support.browser import chromium, launched

VISITS = 15
_TIMES = """() => {
  const page = performance.getEntriesByType("navigation")[0];
  const rest = performance.getEntriesByType("resource");
  return [page.loadEventEnd, [page, ...rest].reduce((sum, one) => sum + one.transferSize, 0)];
}"""


async def pages(at: Installation, _floors: Floors) -> dict[str, Figure]:
    """The sign-in, which is everybody's first page, and the overview of somebody who is signed in; without a browser,
    nothing."""
    if chromium() is None:
        return {}
    async with launched() as browser:
        signed_in = await browser.new_context()
        page = await signed_in.new_page()
        await page.goto(f"{at.api}/signup")
        await page.get_by_label("E-mail address").fill("bench@example.com")
        await page.get_by_label("Password").fill("correct horse battery")
        await page.get_by_role("button", name="Make the account").click()
        await page.wait_for_url(f"{at.api}/")
        state = await signed_in.storage_state()
        floors, firsts, overviews = [], [], []
        for _ in range(VISITS):
            floors.append(await _visit(browser, f"{at.api}/healthz"))
            firsts.append(await _visit(browser, f"{at.api}/signin"))
            overviews.append(await _visit(browser, f"{at.api}/", state))
    floor = statistics.median(took for took, _ in floors)
    return {
        "page_first_ms": figure(statistics.median(took for took, _ in firsts), "ms", floor),
        "page_first_kb": figure(statistics.median(size for _, size in firsts) / 1000, "KB on the wire"),
        "page_overview_ms": figure(statistics.median(took for took, _ in overviews), "ms", floor),
        "page_overview_kb": figure(statistics.median(size for _, size in overviews) / 1000, "KB on the wire"),
    }


async def _visit(browser: Browser, url: str, state: StorageState | None = None) -> tuple[float, float]:
    """Milliseconds and bytes of one visit by somebody who has cached nothing."""
    context = await browser.new_context(storage_state=state)
    page = await context.new_page()
    await page.goto(url, wait_until="load")
    # `loadEventEnd` is set behind the event.
    await page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    took, size = await page.evaluate(_TIMES)
    await context.close()
    return float(took), float(size)
