"""The loader of SQL files."""

import pytest

from vespid.store.queries import parse

FILE = """
-- About this noun.

-- name: first_one
-- Why it is so.
select 1;

-- name: second_one
select ';' -- in the middle
from t
"""


def test_each_named_block_is_a_statement_with_its_comments_and_without_its_semicolon() -> None:
    queries = parse("things", FILE)
    assert queries.first_one == "-- Why it is so.\nselect 1"
    assert queries.second_one == "select ';' -- in the middle\nfrom t"
    assert dir(queries) == ["first_one", "second_one"]


def test_a_name_that_is_not_there_is_told_with_its_file() -> None:
    with pytest.raises(AttributeError, match=r"things\.sql has no query named third_one"):
        _ = parse("things", FILE).third_one


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("select 1", "before the first name"),
        ("-- name: a\nselect 1\n-- name: a\nselect 2", "twice"),
        ("-- name: a\n-- only words\n", "empty"),
    ],
)
def test_a_file_that_is_not_well_formed_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse("things", text)
