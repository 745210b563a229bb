"""Documents as another side tells them: taken where they may be documents, each once, under a hash of our own."""

from collections.abc import Iterable
from dataclasses import dataclass

from vespid_protocol.frames import MemoryDocument
from vespid_protocol.text import clean_text
from vespid_runtime.memory.limits import check_size
from vespid_runtime.memory.paths import MemoryRefused, document_path
from vespid_runtime.memory.workspace import DELETED_SHA256, content_sha256


@dataclass(frozen=True)
class Admitted:
    """What may be kept, one for each path, and why others may not."""

    documents: tuple[MemoryDocument, ...]
    refused: tuple[MemoryRefused, ...]


def admit(documents: Iterable[MemoryDocument]) -> Admitted:
    """Of two with one path the later one counts. How much there may be in all is for whoever keeps them."""
    taken: dict[str, MemoryDocument] = {}
    refused: list[MemoryRefused] = []
    for document in documents:
        try:
            path = document_path(document.path)
            content = None if document.content is None else clean_text(document.content)[0]
            if content is not None:
                check_size(path, len(content.encode()))
        except MemoryRefused as why:
            refused.append(why)
            continue
        sha256 = DELETED_SHA256 if content is None else content_sha256(content)
        taken[path] = MemoryDocument(path=path, sha256=sha256, content=content)
    return Admitted(tuple(taken.values()), tuple(refused))
