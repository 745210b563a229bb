"""Lists: `async for` goes through all of it and fetches page after page; `page` fetches one.

What is added while a list is read neither repeats nor hides other rows: a cursor is a place in the order.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from vespid_client.api import Api
from vespid_client.route import Route

T = TypeVar("T")


class Paged(Protocol):
    """What a route of a list answers."""

    @property
    def next_cursor(self) -> str | None:
        """None: it is the last page."""


P = TypeVar("P", bound=Paged)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some of a list. `next_cursor` None: it is the last."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A list that is read when it is gone through, each time anew."""

    _fetch: Callable[[int | None, str | None], Awaitable[Page[T]]] = field(repr=False)

    async def page(self, limit: int | None = None, cursor: str | None = None) -> Page[T]:
        """One page; `cursor` is the `next_cursor` of the one before. Without `limit` the server chooses (50)."""
        return await self._fetch(limit, cursor)

    async def all(self) -> list[T]:
        """All of it, in memory."""
        return [item async for item in self]

    async def __aiter__(self) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            page = await self.page(LIMIT, cursor)
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return


# What going through a list fetches at once: the most that the server gives.
LIMIT = 200


def listing(
    api: Api,
    route: Route[P],
    items: Callable[[P], list[T]],
    *,
    query: Mapping[str, object] | None = None,
    path: Callable[[], Awaitable[Mapping[str, str]]] | Mapping[str, str] | None = None,
) -> Listing[T]:
    """The list that a route gives; `items` finds it in a page. `path` may have to be asked for first."""

    async def fetch(limit: int | None, cursor: str | None) -> Page[T]:
        # `afterSeq` says where to begin, `cursor` where to go on: the server takes one of them.
        asked = {**(query or {}), "limit": limit}
        if cursor is not None:
            asked |= {"cursor": cursor, "afterSeq": None}
        answer = await api.call(route, query=asked, path=await path() if callable(path) else path)
        return Page(items(answer), answer.next_cursor)

    return Listing(fetch)
