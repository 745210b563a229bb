"""What waits in this process to be looked at: filled from Redis or by a neighbour in the same process."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items for one consumer at a time, taken in batches. An empty batch is a gap: something may have been lost."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._items: deque[T] = deque()
        self._gap = False
        self._filled = asyncio.Event()
        # Set while somebody waits for an item and none has been put.
        self._wanted = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Somebody is waiting for an item right now."""
        return self._wanted.is_set()

    async def wanted(self) -> None:
        """Returns when somebody waits for an item: nothing is fetched that others could do meanwhile."""
        await self._wanted.wait()

    def put(self, items: Sequence[T]) -> None:
        self._items.extend(items)
        self._wanted.clear()
        self._filled.set()

    def drain(self) -> list[T]:
        """What nobody has taken; it is somebody else's then."""
        left = list(self._items)
        self._items.clear()
        return left

    def gap(self) -> None:
        self._gap = True
        self._filled.set()

    async def batches(self) -> AsyncIterator[Sequence[T]]:
        """Batches without end, in the order they were put; repeats within a batch are the putter's business."""
        while True:
            if self._gap:
                self._gap = False
                yield ()
            elif self._items:
                taken = min(len(self._items), self._batch)
                yield [self._items.popleft() for _ in range(taken)]
            else:
                self._filled.clear()
                self._wanted.set()
                try:
                    await self._filled.wait()
                finally:
                    self._wanted.clear()
