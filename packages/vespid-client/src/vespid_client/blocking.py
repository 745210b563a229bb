"""Async methods as ordinary ones: each is run in a loop of its own, on a thread of its own, and waited for.

There is no logic here and none in `sync`: what a method does, its async twin does.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from vespid_client.listing import LIMIT, Listing, Page

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")


class LoopThread:
    """A loop on a thread, from the first call to `stop`."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Whoever interrupts the wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Its items; it is closed when this is left."""
        end, loop = object(), self._running()

        async def following() -> T | object:
            return await anext(items, end)

        try:
            while (item := self.run(following())) is not end:
                yield item  # type: ignore[misc]
        finally:
            # Where the loop has ended, so has what ran in it.
            if self._loop is loop:
                self.run(_closed(items))

    def stop(self) -> None:
        """End the thread; a later call begins another."""
        with self._starting:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_wound_up(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A program that forgets to close its client still ends.
                self._thread = threading.Thread(target=self._loop.run_forever, name="vespid-client", daemon=True)
                self._thread.start()
            return self._loop


class Face(Generic[A]):
    """The ordinary side of something async."""

    def __init__(self, loop: LoopThread, inner: A) -> None:
        self._loop = loop
        self._inner = inner


class SyncListing(Generic[T]):
    """See Listing."""

    def __init__(self, loop: LoopThread, inner: Listing[T]) -> None:
        self._loop = loop
        self._inner = inner

    def page(self, limit: int | None = None, cursor: str | None = None) -> Page[T]:
        """One page; `cursor` is the `next_cursor` of the one before. Without `limit` the server chooses (50)."""
        return self._loop.run(self._inner.page(limit, cursor))

    def all(self) -> list[T]:
        """All of it, in memory."""
        return list(self)

    def __iter__(self) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = self.page(LIMIT, cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


def waited(method: Callable[Concatenate[A, P], Awaitable[T]]) -> Callable[Concatenate[Face[A], P], T]:
    """A method that returns once its twin has."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(_awaited(method(self._inner, *args, **kwargs)))

    return call


def listed(method: Callable[Concatenate[A, P], Listing[T]]) -> Callable[Concatenate[Face[A], P], SyncListing[T]]:
    """A method that answers a list."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> SyncListing[T]:
        return SyncListing(self._loop, method(self._inner, *args, **kwargs))

    return call


def iterated(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Face[A], P], Iterator[T]]:
    """A method that answers items as they come."""

    @functools.wraps(method)
    def call(self: Face[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._inner, *args, **kwargs))

    return call


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


async def _wound_up() -> None:
    """End what was left running: a chat that nobody closed."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
