"""Lists that may be long: so many of them, and from where they go on."""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from vespid.cli.output import Output

if TYPE_CHECKING:
    from vespid_client import Listing, Page

T = TypeVar("T")

PAGE_MAX = 200
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where a list before ended (its `nextCursor`).")]


async def some(listing: "Listing[T]", limit: int, cursor: str | None = None) -> "Page[T]":
    """The first `limit` of them, in as few calls as it takes, and the cursor behind them."""
    from vespid_client import Page

    items: list[T] = []
    while True:
        page = await listing.page(min(PAGE_MAX, limit - len(items)), cursor)
        items += page.items
        cursor = page.next_cursor
        if cursor is None or len(items) >= limit:
            return Page(items, cursor)


def document(out: Output, name: str, page: "Page[Any]") -> None:
    """The list as the API spells it."""
    out.document({name: [item.to_json() for item in page.items], "nextCursor": page.next_cursor})


def say_more(out: Output, page: "Page[Any]") -> None:
    """Tell where the rest is."""
    if page.next_cursor is not None:
        out.note(f"There are more: --limit, or --cursor {page.next_cursor}")
