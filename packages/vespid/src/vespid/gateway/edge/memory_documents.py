"""Documents of memory as hosts send them, made fit to be kept."""

from collections.abc import Iterable

from prometheus_client import Counter

from vespid.store.turns import ChangedDocument
from vespid_protocol.frames import MemoryDocument
from vespid_runtime.memory import admit
from vespid_runtime.memory.limits import DOCUMENTS_MAX
from vespid_runtime.memory.paths import same_file_key

REFUSED = Counter("vespid_memory_documents_refused_total", "Documents of hosts that memory does not take")


def changed_documents(documents: Iterable[MemoryDocument]) -> tuple[ChangedDocument, ...]:
    """Those that memory takes: allowed paths, within the limits, under the hash of what they really hold."""
    admitted = admit(documents)
    taken = admitted.documents[:DOCUMENTS_MAX]
    REFUSED.inc(len(admitted.refused) + len(admitted.documents) - len(taken))
    return stored(taken)


def stored(documents: Iterable[MemoryDocument]) -> tuple[ChangedDocument, ...]:
    """As they are put down."""
    return tuple(
        ChangedDocument(document.path, document.sha256, document.content, same_file_key(document.path))
        for document in documents
    )
