from __future__ import annotations

from vespid_agent.marks import Marks, read_marks


async def test_marks_of_several_calls_are_kept_together_until_each_is_over() -> None:
    written: list[str] = []

    async def write(text: str) -> None:
        written.append(text)

    marks = Marks(write)
    await marks.put("tool:0", '{"pid":1}')
    await marks.put("tool:1", '{"pid":2}')
    await marks.put("tool:0", "")
    await marks.put("tool:2", '{"pid":3}')
    assert [read_marks(text) for text in written] == [
        ['{"pid":1}'],
        ['{"pid":1}', '{"pid":2}'],
        ['{"pid":2}', '{"pid":3}'],
    ]


def test_mark_of_an_earlier_version_stands_for_itself() -> None:
    assert read_marks('{"pid":1}') == ['{"pid":1}']
