"""Templates: types kept, defaults, what is missing, and what no value may become."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vespid.domain.path import MISSING
from vespid.domain.template import (
    FILLED_MAX_CHARS,
    FilledTooLarge,
    TemplateInvalid,
    TemplateValueMissing,
    compile_template,
)
from vespid_runtime.secrets import secret_ids


class Values:
    def __init__(self, given=None, **outputs):
        self._given, self._outputs = given, outputs

    def input(self):
        return self._given

    def output(self, node_id):
        return self._outputs.get(node_id, MISSING)


def fill(value, given=None, **outputs):
    return compile_template(value).fill(Values(given, **outputs))


@pytest.mark.parametrize("value", [3, 1.5, True, None, "text", [1, {"a": 2}], {"b": [3]}])
def test_string_that_is_one_template_keeps_the_type(value):
    assert fill("{{ input.x }}", {"x": value}) == value
    assert type(fill("{{input.x}}", {"x": value})) is type(value)


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (3, "3"), (True, "true"), (None, "null"), ({"a": [1, "b"]}, '{"a":[1,"b"]}')]
)
def test_inside_a_longer_string_values_become_text(value, text):
    assert fill("<{{ input.x }}>", {"x": value}) == f"<{text}>"


def test_paths_lead_through_objects_and_arrays():
    given = {"a": [{"b c": {"d": "found"}}]}
    assert fill('{{ input.a[0]["b c"].d }}', given) == "found"
    assert fill("{{ input.a.0['b c'].d }}", given) == "found"
    assert fill("{{ input }}", given) == given


def test_outputs_of_steps():
    assert fill("{{ steps.my-node.output.y }} {{ steps.o.output }}", None, **{"my-node": {"y": 1}, "o": "x"}) == "1 x"


def test_missing_value_is_an_error_that_names_the_template():
    with pytest.raises(TemplateValueMissing, match=r"\{\{ input\.x\.y \}\}"):
        fill("echo {{ input.x.y }}", {"x": 1})


def test_null_is_a_value_and_no_reason_for_a_default():
    assert fill('{{ input.x | default("d") }}', {"x": None}) is None


@pytest.mark.parametrize(
    ("literal", "value"),
    [('"a \\" b"', 'a " b'), ("'a'", "a"), ("3", 3), ("-1.5", -1.5), ("true", True), ("null", None)],
)
def test_default_stands_in_for_what_is_missing(literal, value):
    assert fill(f"{{{{ input.x | default({literal}) }}}}", {}) == value


def test_everything_in_a_config_is_filled():
    config = {"a": ["{{ input.x }}", {"b": "-{{ input.x }}-"}], "c": 1, "d": {"e": "same"}}
    assert fill(config, {"x": 7}) == {"a": [7, {"b": "-7-"}], "c": 1, "d": {"e": "same"}}


def test_other_braces_are_left_alone():
    script = "docker ps --format '{{.Names}}' && echo {{ foo }} ${{ x }}"
    template = compile_template(script)
    assert template.is_static
    assert template.fill(Values()) == script


@pytest.mark.parametrize(
    "text",
    [
        "{{ input.x",
        "{{ input. x }}",
        "{{ input.x | upper }}",
        "{{ input.x | default(y) }}",
        "{{ steps.a }}",
        "{{ steps.a.result }}",
        "{{ step.a.output }}",
        "{{ inputs.x }}",
        "{{ secret.x }}",
        "{{ secrets.a.b }}",
        '{{ secrets["a"] }}',
        "{{ secrets }}",
    ],
)
def test_templates_that_are_not_well_formed_are_refused_with_their_place(text):
    with pytest.raises(TemplateInvalid) as caught:
        compile_template({"a": ["fine", text]})
    assert caught.value.path == ["a", "1"]


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secret_templates_are_collected_and_stay():
    template = compile_template({"a": "x {{secrets.s1}} {{ input.v }}", "b": "{{ secrets.s2 }}"})
    assert template.secrets == ("s1", "s2")
    assert template.fill(Values({"v": 1})) == {"a": "x {{secrets.s1}} 1", "b": "{{ secrets.s2 }}"}


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("{{ input.a }}", {"a": "{{secrets.mine}}"}),
        ("{{ input.a }}", {"a": {"deep": ["{{ secrets.mine }}"], "{{secrets.mine}}": 1}}),
        ("echo {{ input.a }}", {"a": "{{secrets.mine}}"}),
        ("{{ input.a }}{{ input.b }}", {"a": "{{", "b": "secrets.mine}}"}),
        ("{{ input.a }}{{ input.b }}", {"a": "{", "b": "{secrets.mine}}"}),
        ("{{{ input.a }}", {"a": "{secrets.mine}}"}),
        ("{{ input.a }}", {"a": "{{{secrets.mine}}"}),
        ("{{ input.a }}", {"a": "{{{{secrets.mine}}"}),
    ],
)
def test_value_can_never_ask_for_a_secret(template, given):
    assert secret_ids(fill(template, given)) == set()


@pytest.mark.promise("P7")
@given(st.lists(st.sampled_from(["{", "{{", " ", "{{secrets", ".", "{{secrets.mine", "}}", "\n"]), max_size=6))
@example(["{{secrets.mine", "}}"])
def test_values_around_the_authors_secret_cannot_change_what_is_asked_for(pieces):
    text = "".join(pieces)
    filled = fill("{{ input.a }}{{secrets.own}}{{ input.a }}", {"a": text})
    assert secret_ids(filled) <= {"own"}
    assert filled.count("{{secrets.own}}") == 1


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_repeated_large_values_are_bounded():
    with pytest.raises(FilledTooLarge):
        fill("{{ input.a }}" * 5, {"a": "x" * (FILLED_MAX_CHARS // 4)})
    with pytest.raises(FilledTooLarge):
        fill(["{{ input.a }}"] * 5, {"a": ["x" * (FILLED_MAX_CHARS // 4)]})


def test_deeply_nested_values_are_bounded():
    deep: object = "secrets"
    for _ in range(400):
        deep = [deep]
    with pytest.raises(FilledTooLarge):
        fill("{{ input.a }}", {"a": deep})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_whole_value_passes_unchanged_if_it_holds_no_braces(value):
    if "{{" not in msgspec.json.encode(value).decode():
        assert fill("{{ input.v }}", {"v": value}) == value
