"""JSON output: read, checked, mended or given up."""

from __future__ import annotations

import pytest

from vespid_protocol.codes import Code
from vespid_runtime.engines.config import Output
from vespid_runtime.loop.effects import Failed, Finished

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
WANTED = Output(mode="json", json_schema=SCHEMA)


def test_model_is_told_the_schema(play) -> None:
    system = play(output=WANTED).asked.messages[0].content
    assert system.startswith("Be short.")
    assert '"required":["count"]' in system


@pytest.mark.parametrize("text", ['{"count":3}', '  {"count":3}\n', '```json\n{"count":3}\n```', '```\n{"count":3}```'])
def test_json_is_taken_bare_or_in_a_block_of_code(play, text: str) -> None:
    loop = play(output=WANTED)
    loop.reply(text)
    assert loop.one(Finished).value == {"count": 3}
    assert loop.one(Finished).content == '{"count":3}'


def test_model_is_told_what_is_wrong_and_may_mend_it(play) -> None:
    loop = play(output=WANTED)
    loop.reply('{"count":"three"}')
    said, complaint = loop.asked.messages[-2:]
    assert said.content == '{"count":"three"}'
    assert 'count: "three" is not of type "integer"' in complaint.content
    loop.reply('{"count":3}')
    assert loop.one(Finished).value == {"count": 3}


def test_answer_that_is_not_mended_fails_with_the_cause(play) -> None:
    loop = play(output=WANTED)
    for _ in range(2):
        loop.reply("three")
        assert loop.asked
    loop.reply("three")
    end = loop.one(Failed)
    assert end.code == Code.AGENT_OUTPUT_INVALID
    assert "it is not JSON" in end.message


def test_without_a_schema_any_json_will_do(play) -> None:
    loop = play(output=Output(mode="json"))
    loop.reply("[1, null]")
    assert loop.one(Finished).value == [1, None]


def test_json_that_is_too_long_is_not_cut_but_told(play) -> None:
    loop = play(output=WANTED, limits={"max_output_chars": 20})
    loop.reply('{"count":3' + " " * 20 + "}")
    assert "at most 20 may be" in loop.asked.messages[-1].content


def test_json_that_was_cut_by_the_provider_says_so(play) -> None:
    loop = play(output=WANTED)
    loop.reply('{"count":', stop_reason="length")
    assert "it was cut" in loop.asked.messages[-1].content


@pytest.mark.parametrize("text", ["NaN", "1e999", "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70])
def test_json_that_nobody_could_read_again_is_told(play, text: str) -> None:
    loop = play(output=Output(mode="json"))
    loop.reply(text)
    assert "not the answer that is wanted" in loop.asked.messages[-1].content


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"$ref": "http://example.test/schema"}, {"$ref": "#/nowhere"}, {"pattern": "("}]
)
def test_schema_that_is_none_fails_before_any_model_is_asked(play, schema: dict[str, object]) -> None:
    loop = play(output=Output(mode="json", json_schema=schema))
    assert loop.one(Failed).code == Code.INVALID_EXECUTE_PAYLOAD
    assert "jsonSchema" in loop.one(Failed).message


def test_pattern_that_would_try_for_ever_gives_up(play) -> None:
    schema = {"type": "string", "pattern": r"^((a+)+)+\1$"}
    loop = play(output=Output(mode="json", json_schema=schema))
    loop.reply('"' + "a" * 64 + '!"')
    assert loop.asked


def test_nothing_is_fetched_for_a_schema(play) -> None:
    loop = play(output=Output(mode="json", json_schema={"$ref": "http://127.0.0.1:9/schema"}))
    assert "Retrieval is disabled" in loop.one(Failed).message
