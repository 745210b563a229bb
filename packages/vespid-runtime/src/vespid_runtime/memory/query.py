"""What a person types, read as a person means it; nothing in it can be syntax of the database.

Words are looked for whole or as the beginning of a longer one; what is glued together (`foo-bar.md`, `user@host`) or in
quotes stays together; passages with all of it come first, those with some of it after them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vespid_runtime.memory.tokens import identifier_parts, is_unspaced, tokenize

QUERY_MAX_CHARS = 1000
TERMS_MAX = 32
# A shorter beginning would be that of too much.
_PREFIX_MIN_CHARS = 3

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»|「([^」]*)」|『([^』]*)』')
# White space and what stands between parts of a sentence in any script; not what glues words together.
_BETWEEN = re.compile(r"[\s,;!?()\[\]{}<>|\"“”„«»「」『』，。、；：！？（）《》【】…،؛؟।]+")


@dataclass(frozen=True)
class Term:
    """Tokens that follow each other."""

    tokens: tuple[str, ...]
    # Whether the last one may go on.
    is_prefix: bool = False
    # The same, spelled as the words inside an identifier.
    parts: tuple[str, ...] = ()

    def expression(self) -> str:
        """In the language of FTS5; tokens hold nothing that ends a string there."""
        spelled = _phrase(self.tokens)
        ways = [spelled]
        if self.is_prefix:
            ways.append(f"{spelled} *")
        if self.parts:
            ways.append(_phrase(self.parts))
        return f"({' OR '.join(ways)})" if len(ways) > 1 else spelled

    def occurs_in(self, tokens: Sequence[str], parts: Sequence[str]) -> bool:
        """Whether a line with these tokens, and these words inside identifiers, has it."""
        return (
            _occurs(self.tokens, tokens, is_prefix=self.is_prefix)
            or _occurs(self.tokens, parts, is_prefix=self.is_prefix)
            or bool(self.parts and (_occurs(self.parts, tokens) or _occurs(self.parts, parts)))
        )


@dataclass(frozen=True)
class Query:
    """Empty where there is nothing to look for."""

    terms: tuple[Term, ...]
    # Each of them is less than a term: its single words, or two neighbours of a script without spaces.
    crumbs: tuple[Term, ...]

    def all_terms(self) -> str:
        """Matches what has everything."""
        return " AND ".join(term.expression() for term in self.terms)

    def some_crumbs(self) -> str:
        """Matches what has anything."""
        return " OR ".join(term.expression() for term in self.crumbs)


def parse_query(text: str) -> Query:
    """Never fails; what is beyond the limits is not looked for."""
    text = text[:QUERY_MAX_CHARS]
    terms = [Term(tuple(tokens)) for match in _QUOTED.finditer(text) if (tokens := tokenize("".join(_groups(match))))]
    for chunk in _BETWEEN.split(_QUOTED.sub(" ", text)):
        term = _term(chunk)
        if term is not None:
            terms.append(term)
    terms = list(dict.fromkeys(terms))[:TERMS_MAX]
    crumbs = [crumb for term in terms for crumb in _crumbs(term)]
    return Query(tuple(terms), tuple(list(dict.fromkeys(crumbs))[: 2 * TERMS_MAX]))


def _term(chunk: str) -> Term | None:
    tokens = tuple(tokenize(chunk))
    if not tokens:
        return None
    can_go_on = not is_unspaced(tokens[-1]) and (len(tokens[-1]) >= _PREFIX_MIN_CHARS or chunk.endswith("*"))
    parts = tuple(identifier_parts(chunk))
    return Term(tokens, is_prefix=can_go_on, parts=parts if parts != tokens else ())


def _crumbs(term: Term) -> list[Term]:
    if len(term.tokens) == 1:
        return [term]
    crumbs: list[Term] = []
    for at, token in enumerate(term.tokens):
        if not is_unspaced(token):
            crumbs.append(Term((token,), is_prefix=len(token) >= _PREFIX_MIN_CHARS))
        elif at + 1 < len(term.tokens) and is_unspaced(term.tokens[at + 1]):
            crumbs.append(Term((token, term.tokens[at + 1])))
    return crumbs or [term]


def _groups(match: re.Match[str]) -> list[str]:
    return [group for group in match.groups() if group]


def _phrase(tokens: Sequence[str]) -> str:
    return f'"{" ".join(tokens)}"'


def _occurs(wanted: Sequence[str], there: Sequence[str], *, is_prefix: bool = False) -> bool:
    length = len(wanted)
    head, last = tuple(wanted[:-1]), wanted[-1]
    for at in range(len(there) - length + 1):
        end = there[at + length - 1]
        if (end == last or (is_prefix and end.startswith(last))) and tuple(there[at : at + length - 1]) == head:
            return True
    return False
