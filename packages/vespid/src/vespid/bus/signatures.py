"""Which executors match which signatures: worked out here, kept in Redis, never asked per dispatch.

Two moments need it: an executor is upserted (it against every signature of its partition) and a signature comes up
(every executor of the partition against it). They may overlap, in different processes, so:

- a new signature is *announced* before the executors are read. An upsert that did not know of it is told to match again
  (`sigv`), so every executor that is upserted after the announcement carries it already;
- an executor that was read before is *attached* only if its entry is still the one that was read (`v`);
- the signature counts as known only when all are attached. Until then any process that asks does the same work again;
  nobody waits for somebody who may have died.
"""

import asyncio

import msgspec

from vespid.bus.choice import ExecutorPresence
from vespid.bus.partition import Handed, Partition
from vespid.domain.selector import Capabilities, Requirement, matches

_encode = msgspec.json.encode
_capabilities = msgspec.json.Decoder(Capabilities)
_requirement = msgspec.json.Decoder(Requirement)


class Signatures:
    """Keeps executors and signatures of all partitions matched."""

    def __init__(self) -> None:
        # Signatures that this process is just learning; who needs one too waits for the same work.
        self._learning: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def upsert(self, partition: Partition, executor: ExecutorPresence) -> list[Handed]:
        """Enter the executor with all signatures that it matches. A stale connection's changes nothing."""
        capabilities = _encode(executor.capabilities)
        while True:
            version, known = await partition.signatures()
            fitting = [
                signature
                for signature, requirement in known.items()
                if matches(executor.capabilities, _requirement.decode(requirement))
            ]
            word, handed = await partition.upsert(executor, capabilities, fitting, version)
            if word != "RETRY":
                return handed

    async def learn(self, partition: Partition, requirement: Requirement) -> None:
        """Make the signature of `requirement` known to the partition."""
        key = (partition.name, requirement.signature)
        underway = self._learning.get(key)
        if underway is not None:
            # Shielded: one caller's cancellation is not the others' business. A failure is everybody's.
            await asyncio.shield(underway)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._learning[key] = done
        try:
            await self._learn(partition, requirement)
        except BaseException as error:
            if isinstance(error, Exception):
                done.set_exception(error)
                done.exception()  # ours is raised below; without other waiters it has been seen
            else:
                done.cancel()
            raise
        else:
            done.set_result(None)
        finally:
            del self._learning[key]

    async def _learn(self, partition: Partition, requirement: Requirement) -> None:
        await partition.announce(requirement.signature, _encode(requirement))
        cursor = "0"
        while True:
            cursor, page = await partition.executors(cursor)
            fitting = [
                (executor_id, version)
                for executor_id, version, capabilities in page
                if matches(_capabilities.decode(capabilities), requirement)
            ]
            await partition.attach(requirement.signature, fitting, last=cursor == "0")
            if cursor == "0":
                return
