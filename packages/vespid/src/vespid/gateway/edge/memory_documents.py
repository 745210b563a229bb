"""Documents of memory as hosts send them, made fit to be kept."""

from collections.abc import Iterable

from prometheus_client import Counter

from vespid.store.turns import ChangedDocument
from vespid_protocol.frames import MemoryDocument
from vespid_runtime.memory import DELETED_SHA256, MemoryRefused, content_sha256, document_path
from vespid_runtime.memory.workspace import DOCUMENT_MAX_BYTES, DOCUMENTS_MAX

REFUSED = Counter("vespid_memory_documents_refused_total", "Documents of hosts that memory does not take")


def changed_documents(documents: Iterable[MemoryDocument]) -> tuple[ChangedDocument, ...]:
    """Those that memory takes: allowed paths, within the limits, under the hash of what they really hold."""
    taken: dict[str, ChangedDocument] = {}
    for document in documents:
        try:
            path = document_path(document.path)
        except MemoryRefused:
            REFUSED.inc()
            continue
        content = document.content
        if len(taken) == DOCUMENTS_MAX or (content is not None and len(content.encode()) > DOCUMENT_MAX_BYTES):
            REFUSED.inc()
            continue
        digest = DELETED_SHA256 if content is None else content_sha256(content)
        taken[path] = ChangedDocument(path, digest, content)
    return tuple(taken.values())
