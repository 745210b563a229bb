"""Creates runs together with their first step, where the API and the worker are one process (`vespid up`).

Alone, an API only puts the run down as due: the policy of a step (time limits, retries, what is reachable) is the
worker's to know, from settings that only the worker has.
"""

from vespid.dispatch.house import House
from vespid.store.runs import Created, NewRun, RunCreator


class RunStarter:
    """A Service, on a house that is started before it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._creator = RunCreator(house.db)

    async def start(self) -> None:
        await self._creator.start()

    async def stop(self) -> None:
        await self._creator.stop()

    async def create(self, run: NewRun) -> Created:
        """The run is committed when this returns. Raises what `RunCreator.create` raises."""
        return await self._house.stepper.create(run, self._creator.create)
