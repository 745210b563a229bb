"""What a session remembers: markdown documents on its host, searched, written by tools, carried to the next host."""

from vespid_runtime.memory.admission import Admitted, admit
from vespid_runtime.memory.index import MemoryIndex, SearchResult
from vespid_runtime.memory.paths import MemoryRefused, document_path, session_folder
from vespid_runtime.memory.tools import MemoryTool, memory_tools
from vespid_runtime.memory.workspace import DELETED_SHA256, Changes, MemoryWorkspace, content_sha256

__all__ = [
    "DELETED_SHA256",
    "Admitted",
    "Changes",
    "MemoryIndex",
    "MemoryRefused",
    "MemoryTool",
    "MemoryWorkspace",
    "SearchResult",
    "admit",
    "content_sha256",
    "document_path",
    "memory_tools",
    "session_folder",
]
