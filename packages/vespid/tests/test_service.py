"""How services live together."""

import asyncio

import pytest

from vespid.service import Service, Stack, running


class Recorder:
    """A service that writes down what happens to it."""

    def __init__(self, name: str, journal: list[str], *, fails_at: str = "") -> None:
        self._name, self._journal, self._fails_at = name, journal, fails_at

    async def start(self) -> None:
        self._journal.append(f"+{self._name}")
        await asyncio.sleep(0)
        if self._fails_at == "start":
            raise RuntimeError(self._name)

    async def stop(self) -> None:
        self._journal.append(f"-{self._name}")
        if self._fails_at == "stop":
            raise RuntimeError(self._name)


async def test_services_start_in_order_and_stop_in_reverse_once() -> None:
    journal: list[str] = []
    stack = Stack([Recorder(name, journal) for name in "abc"])
    assert isinstance(stack, Service)
    await asyncio.gather(stack.start(), stack.start())
    await asyncio.gather(stack.stop(), stack.stop())
    assert journal == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_when_one_fails_to_start_those_before_it_and_itself_are_stopped() -> None:
    journal: list[str] = []
    stack = Stack([Recorder("a", journal), Recorder("b", journal, fails_at="start"), Recorder("c", journal)])
    with pytest.raises(RuntimeError, match="b"):
        await stack.start()
    assert journal == ["+a", "+b", "-b", "-a"]


async def test_when_one_fails_to_stop_the_others_are_stopped_and_the_error_is_told() -> None:
    journal: list[str] = []
    stack = Stack([Recorder("a", journal), Recorder("b", journal, fails_at="stop")])
    await stack.start()
    with pytest.raises(RuntimeError, match="b"):
        await stack.stop()
    assert journal == ["+a", "+b", "-b", "-a"]


async def test_running_stops_after_the_block_whatever_happens_in_it() -> None:
    journal: list[str] = []

    async def fail_inside() -> None:
        async with running(Recorder("a", journal)):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_inside()
    assert journal == ["+a", "-a"]
