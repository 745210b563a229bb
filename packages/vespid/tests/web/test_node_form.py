"""The editor's fields, held against the shapes that the API reads."""

from typing import Any

import msgspec
import pytest

from vespid.domain.node_config import CONFIGS, NodeShape
from vespid.domain.workflow import parse
from vespid.web.node_form import COMMON, FIELDS, INLINE, NEW_NODES, node_form


def is_of(shape: Any, keys: list[str]) -> bool:
    """Whether a path leads somewhere in a struct."""
    for key in keys:
        shapes = [part for part in getattr(shape, "__args__", (shape,)) if hasattr(part, "__struct_fields__")]
        fields = {field.encode_name: field.type for part in shapes for field in msgspec.structs.fields(part)}
        if key not in fields:
            return False
        shape = fields[key]
    return True


@pytest.mark.parametrize(
    ("node_type", "path"), [(node_type, field["path"]) for node_type in FIELDS for field in FIELDS[node_type]]
)
def test_every_field_is_one_of_the_contract(node_type: str, path: str) -> None:
    assert path.startswith("config.")
    assert is_of(CONFIGS[node_type], path.split(".")[1:])


def test_the_common_fields_are_of_every_node() -> None:
    assert all(is_of(NodeShape, field["path"].split(".")) for field in COMMON)


def test_every_type_of_node_has_a_form_and_a_new_node_that_is_valid() -> None:
    assert set(FIELDS) == set(NEW_NODES) == set(CONFIGS)
    for node_type, node in NEW_NODES.items():
        nodes = [{"id": "n", "type": node_type, **node}]
        assert parse({"version": "v2", "trigger": {"type": "trigger.manual"}, "nodes": nodes}).plan.nodes
    assert set(INLINE) < set(CONFIGS)
    assert msgspec.json.encode(node_form())
