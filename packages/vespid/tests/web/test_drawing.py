"""The picture of a graph: columns from left to right, nothing on top of anything else."""

from typing import Any

from vespid.web.drawing import BOX_HEIGHT, BOX_WIDTH, draw


def graph(levels: dict[str, int], *edges: tuple[str, str]) -> dict[str, Any]:
    return {
        "nodes": [{"id": node, "type": "condition", "level": level} for node, level in levels.items()],
        "edges": [{"from": a, "to": b} for a, b in edges],
    }


def test_levels_go_from_left_to_right() -> None:
    drawing = draw(graph({"a": 0, "b": 1, "c": 2}, ("a", "b"), ("b", "c")))
    assert [box.id for box in sorted(drawing.boxes, key=lambda box: box.x)] == ["a", "b", "c"]
    assert len({box.y for box in drawing.boxes}) == 1


def test_no_box_lies_on_another_and_all_are_inside() -> None:
    wide = {f"n{at}": at % 3 for at in range(40)}
    edges = [(f"n{at}", f"n{at + 1}") for at in range(39) if at % 3 != 2]
    drawing = draw(graph(wide, *edges))
    for at, box in enumerate(drawing.boxes):
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT
        for other in drawing.boxes[at + 1 :]:
            assert box.x != other.x or abs(box.y - other.y) >= BOX_HEIGHT


def test_a_line_that_passes_a_level_by_runs_beside_its_boxes() -> None:
    drawing = draw(graph({"a": 0, "b": 1, "c": 2}, ("a", "b"), ("b", "c"), ("a", "c")))
    middle = next(box for box in drawing.boxes if box.id == "b")
    passing = drawing.lines[2].path
    heights = [float(part.split()[-1]) for part in passing.replace("L", "|L").split("|") if part.startswith("L")]
    assert heights
    assert all(not middle.y < height < middle.y + BOX_HEIGHT for height in heights)


def test_the_same_is_told_in_words() -> None:
    given = graph({"a": 0, "b": 1}, ("a", "b"))
    given["edges"][0]["label"] = "true"
    assert [node["next"] for node in draw(given).nodes] == [[{"to": "b", "label": "true"}], []]


def test_nothing_makes_an_empty_picture() -> None:
    assert draw(graph({})).boxes == []
