"""Where a session's memory lies, and which documents it may have.

The rules are the same on every system, as a session moves between hosts: what one of them could not store is refused
by all. A folder's name can be read by a person, but it is the hash in it that keeps two session keys apart.
"""

import hashlib
import re
import unicodedata
from pathlib import Path

from vespid_protocol.ids import is_uuid

MAIN_DOCUMENT = "MEMORY.md"
DOCUMENT_FOLDER = "memory"
SUFFIX = ".md"

PATH_MAX_BYTES = 400
PART_MAX_BYTES = 200
PATH_MAX_PARTS = 8

_READABLE_CHARS = 48
_HASH_CHARS = 40  # 160 bits: nobody finds two keys for one folder

_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
# Names that open a device on Windows, whatever follows their first dot.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [port + digit for port in ("com", "lpt") for digit in "0123456789¹²³"]
)


class MemoryRefused(ValueError):
    """Not done, for a reason that whoever asked can mend; the message begins with the name of the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        # Of what was given, spelled as on the wire.
        self.field = field
        self.problem = problem


def workflow_key(workflow: str) -> str:
    """What the runs of a workflow remember under, in the place of a session key: those begin with `agent:`."""
    return f"workflow:{workflow.lower()}"


def session_folder(root: Path, organization_id: str, session_key: str) -> Path:
    """`<root>/<organizationId>/<name>`. Raises MemoryRefused."""
    return root.joinpath(*folder_names(organization_id, session_key))


def folder_names(organization_id: str, session_key: str) -> tuple[str, str]:
    """The two folders below the root. Raises MemoryRefused."""
    if not is_uuid(organization_id):
        raise MemoryRefused("organizationId", "is not a UUID")
    if not session_key:
        raise MemoryRefused("sessionKey", "is empty")
    organization = organization_id.lower()
    # A session key names its organization, which the folder above says already.
    told = session_key.lower().replace(f":org:{organization}", "")
    readable = re.sub(r"[^a-z0-9_]+", "-", told[: 4 * _READABLE_CHARS])[:_READABLE_CHARS].strip("-") or "session"
    digest = hashlib.sha256(session_key.encode("utf-8", "surrogatepass")).hexdigest()
    return organization, f"{readable}-{digest[:_HASH_CHARS]}"


def document_path(text: str) -> str:
    """The one spelling of a document's path: `MEMORY.md`, or `memory/….md`. Raises MemoryRefused."""
    path = unicodedata.normalize("NFC", text)
    if not path:
        raise _refused("is empty")
    if any(unicodedata.category(character) in _CONTROL for character in path):
        raise _refused("contains a control character")
    if len(path.encode()) > PATH_MAX_BYTES:
        raise _refused(f"is longer than {PATH_MAX_BYTES} bytes")
    if _FORBIDDEN.search(path):
        raise _refused('contains one of < > : " | ? * \\')
    if path.startswith("/"):
        raise _refused("is absolute")
    parts = path.split("/")
    if len(parts) > PATH_MAX_PARTS:
        raise _refused(f"has more than {PATH_MAX_PARTS} parts")
    for part in parts:
        _check_part(part)
    if any(part.casefold().endswith(SUFFIX) for part in parts[:-1]):
        # No folder is ever in the way of a document.
        raise _refused(f"has a folder whose name ends with {SUFFIX}")
    if path != MAIN_DOCUMENT and (len(parts) == 1 or parts[0] != DOCUMENT_FOLDER):
        raise _refused(f"is neither {MAIN_DOCUMENT} nor below {DOCUMENT_FOLDER}/")
    if not parts[-1].endswith(SUFFIX):
        raise _refused(f"does not end with {SUFFIX}")
    return path


def same_file_key(path: str) -> str:
    """Equal for paths that are one file where case does not matter."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _check_part(part: str) -> None:
    if part == "..":
        raise _refused("contains '..'")
    if not part:
        raise _refused("has an empty part")
    if part.startswith("."):
        raise _refused("has a part that begins with a dot")
    if part != part.strip() or part.endswith("."):
        raise _refused("has a part that begins or ends with a space, or ends with a dot")
    if len(part.encode()) > PART_MAX_BYTES:
        raise _refused(f"has a part longer than {PART_MAX_BYTES} bytes")
    if part.partition(".")[0].rstrip().casefold() in _DEVICES:
        raise _refused(f"has a part that is the name of a device ({part.partition('.')[0]})")


def _refused(problem: str) -> MemoryRefused:
    return MemoryRefused("path", problem)
