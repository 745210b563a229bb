"""Templates of secrets: filled once, everywhere, or refused by name."""

import pytest

from vespid_runtime.secrets import SecretMissing, fill_secrets, secret_ids


def test_templates_are_filled_anywhere_in_a_value() -> None:
    value = {"a": ["x {{secrets.one}} y", 1, None], "b": {"c": "{{ secrets.two-2 }}"}, "d": "plain {{ input.x }}"}
    assert secret_ids(value) == {"one", "two-2"}
    assert fill_secrets(value, {"one": "1", "two-2": "2"}) == {
        "a": ["x 1 y", 1, None],
        "b": {"c": "2"},
        "d": "plain {{ input.x }}",
    }


def test_value_that_looks_like_a_template_is_not_filled_again() -> None:
    assert fill_secrets("{{secrets.a}}", {"a": "{{secrets.b}}", "b": "no"}) == "{{secrets.b}}"


def test_missing_secret_is_named() -> None:
    with pytest.raises(SecretMissing) as missing:
        fill_secrets({"x": "{{secrets.gone}}"}, {})
    assert missing.value.secret_id == "gone"
