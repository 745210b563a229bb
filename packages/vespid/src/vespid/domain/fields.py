"""What is wrong with a body, by field, where its shape alone does not tell."""

from __future__ import annotations

from collections.abc import Mapping


class FieldsInvalid(ValueError):
    """A field at fault or several; `fields` goes into `details.fieldErrors` as it is."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        super().__init__("; ".join(f"{field}: {' '.join(messages)}" for field, messages in fields.items()))
        self.fields = dict(fields)


class FieldNotes:
    """Gathers what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self._fields: dict[str, list[str]] = {}

    def note(self, field: str, message: str) -> None:
        self._fields.setdefault(field, []).append(message)

    def raise_any(self) -> None:
        """Raises FieldsInvalid if anything was noted."""
        if self._fields:
            raise FieldsInvalid(self._fields)
