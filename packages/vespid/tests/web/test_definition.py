"""Definitions as text, and what differs between two."""

import json

from vespid.web.definition import compare, definition_text


def test_keys_come_in_the_order_in_which_people_write_them() -> None:
    text = definition_text({"nodes": [{"config": {}, "type": "condition", "id": "a"}], "version": "v2", "other": 1})
    assert list(json.loads(text)) == ["version", "other", "nodes"]
    assert list(json.loads(text)["nodes"][0]) == ["id", "type", "config"]


def test_the_text_means_what_it_was_made_of() -> None:
    dsl = {
        "version": "v3",
        "graph": {"edges": [], "nodes": {"type": {"type": "condition", "x": [{"id": 1, "a": None}]}}},
    }
    assert json.loads(definition_text(dsl)) == dsl


def test_equal_texts_have_no_difference() -> None:
    assert compare("a\nb", "a\nb") == []


def test_changed_lines_stand_side_by_side_with_their_numbers() -> None:
    rows = compare("a\nold\nc", "a\nnew\nmore\nc")
    assert [(row.kind, row.old_number, row.old, row.new_number, row.new) for row in rows] == [
        ("same", 1, "a", 1, "a"),
        ("changed", 2, "old", 2, "new"),
        ("new", None, None, 3, "more"),
        ("same", 3, "c", 4, "c"),
    ]


def test_what_is_far_from_a_difference_is_skipped_and_counted() -> None:
    lines = [str(at) for at in range(40)]
    rows = compare("\n".join(lines), "\n".join([*lines[:20], "x", *lines[20:]]))
    assert [row.count for row in rows if row.kind == "skipped"] == [17, 17]
    assert [row.kind for row in rows].count("new") == 1
