"""Pages: `?limit&cursor` in, `{<items>, nextCursor}` out.

A cursor says after which key to go on (an id, a seq), so that rows inserted meanwhile neither repeat nor hide others.
It is opaque: base64 of a version and the key, nobody's to build.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar
from uuid import UUID

from litestar.params import QueryParameter

from vespid.errors import ApiError, bad_request
from vespid_protocol.ids import is_uuid

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_VERSION = "1"
_MAX_SEQ = 2**62

Row = TypeVar("Row")


class Page:
    """One page that was asked for."""

    def __init__(self, limit: int, cursor: str | None) -> None:
        self.limit = limit
        self._key = None if cursor is None else _decode(cursor)

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than are shown, which tells whether there is a next page."""
        return self.limit + 1

    def after_id(self) -> UUID | None:
        """The id after which to go on; None from the beginning. Raises ApiError 400."""
        if self._key is None:
            return None
        if not is_uuid(self._key):
            raise _not_a_cursor()
        return UUID(self._key)

    def after_seq(self) -> int | None:
        """The seq after which to go on; None from the beginning. Raises ApiError 400."""
        if self._key is None:
            return None
        if not self._key.isascii() or not self._key.isdigit() or int(self._key[:20]) > _MAX_SEQ:
            raise _not_a_cursor()
        return int(self._key)

    def after_key(self) -> str | None:
        """The key after which to go on, where a key may be any text; None from the beginning."""
        return self._key

    def cut(
        self, rows: Sequence[Row], key: Callable[[Row], UUID | int | str], *, is_more: bool = False
    ) -> tuple[list[Row], str | None]:
        """The rows to show of those fetched, and the next page's cursor (None on the last page).

        `is_more`: there are further rows, though not as many were fetched as would show it.
        """
        shown = list(rows[: self.limit])
        return shown, _encode(str(key(shown[-1]))) if is_more or len(rows) > self.limit else None


def provide_page(
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="How many at most.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, QueryParameter(description="The `nextCursor` of the page before.")] = None,
) -> Page:
    """`page`: on routes that list."""
    return Page(limit, cursor)


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(f"{_VERSION}:{key}".encode()).rstrip(b"=").decode()


def _decode(cursor: str) -> str:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise _not_a_cursor() from None
    version, colon, key = text.partition(":")
    if version != _VERSION or not colon or not 0 < len(key) <= 128:
        raise _not_a_cursor()
    return key


def _not_a_cursor() -> ApiError:
    return bad_request("This is not a cursor of this list.", field="cursor")
