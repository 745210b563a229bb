"""What sessions remember: markdown documents."""

from vespid_client.models.model import Model


class ListedDoc(Model, frozen=True, kw_only=True):
    """A document, without its content."""

    id: str
    organization_id: str
    session_key: str
    path: str
    version: int
    sha256: str
    created_at: str
    updated_at: str


class Doc(ListedDoc, frozen=True, kw_only=True):
    """A document."""

    content: str


class FoundPassage(Model, frozen=True, kw_only=True):
    """A passage that was searched for."""

    doc_id: str
    path: str
    session_key: str
    score: float
    snippet: str
    line_start: int
    line_end: int


class ChangedDoc(Model, frozen=True, kw_only=True):
    """A document that a sync changed."""

    path: str
    version: int
    sha256: str
    deleted: bool


class Synced(Model, frozen=True, kw_only=True):
    """What came of a sync."""

    ok: bool = True
    session_id: str
    session_key: str
    memory_version: int
    changed: list[ChangedDoc]
    left_out: list[str]
