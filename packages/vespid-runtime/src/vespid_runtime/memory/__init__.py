"""What sessions and workflows remember: markdown documents on a host or in a database, which tools search and write."""

from vespid_runtime.memory.admission import Admitted, admit
from vespid_runtime.memory.index import MemoryIndex, SearchResult
from vespid_runtime.memory.paths import MemoryRefused, document_path, session_folder, workflow_key
from vespid_runtime.memory.tools import MEMORY_TOOLS, MemoryTool, carry_out
from vespid_runtime.memory.workspace import DELETED_SHA256, Changes, MemoryWorkspace, content_sha256

__all__ = [
    "DELETED_SHA256",
    "MEMORY_TOOLS",
    "Admitted",
    "Changes",
    "MemoryIndex",
    "MemoryRefused",
    "MemoryTool",
    "MemoryWorkspace",
    "SearchResult",
    "admit",
    "carry_out",
    "content_sha256",
    "document_path",
    "session_folder",
    "workflow_key",
]
