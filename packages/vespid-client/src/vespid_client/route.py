"""Routes of the API: where one is, what it answers, whether it may be asked twice. Each is declared beside its use."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from vespid_client.models.model import Model
from vespid_client.retries import Repeat

T = TypeVar("T")


@dataclass(frozen=True)
class Route(Generic[T]):
    """`path` is that of the OpenAPI document; the client fills `{org_id}` in."""

    method: str
    path: str
    answer: type[T]
    repeat: Repeat = Repeat.SAFE
    # Whether nobody has to be signed in.
    is_open: bool = False

    @property
    def is_of_org(self) -> bool:
        """Whether it takes an organization."""
        return "{org_id}" in self.path


class Done(Model, frozen=True, kw_only=True):
    """It is done."""

    ok: bool = True


def get(path: str, answer: type[T]) -> Route[T]:
    """A route that reads."""
    return Route("GET", path, answer)


def post(path: str, answer: type[T], repeat: Repeat) -> Route[T]:
    """A route that does something; how it may be repeated has to be said."""
    return Route("POST", path, answer, repeat)


def put(path: str, answer: type[T]) -> Route[T]:
    """A route that replaces."""
    return Route("PUT", path, answer)


def delete(path: str) -> Route[Done]:
    """A route that deletes."""
    return Route("DELETE", path, Done)
