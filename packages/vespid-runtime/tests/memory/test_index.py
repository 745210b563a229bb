"""Search: what a person expects to find, in any language, whatever he types."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vespid_runtime.memory.index import MemoryIndex, SearchResult
from vespid_runtime.memory.query import QUERY_MAX_CHARS, TERMS_MAX, parse_query
from vespid_runtime.memory.tokens import identifier_parts, tokenize

FACTS = """# Facts

The deployment of the billing service runs on staging first.
She prefers short answers.

## Größen und Straßen

Die Maßeinheit ist Zentimeter; er wohnt in der Müllerstraße.

## 住所

我住在北京大学附近，喜欢喝茶。
東京タワーの近くに住んでいます。
우리 학교에서 공부한다.
ฉันชอบกินข้าวผัด
ذهب أحمد إلى المَكتَبة أمس
मुझे हिन्दी पसंद है
"""
CODE = """Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py.
Mail goes to ops@example.com 🎉 with v1.22.3 ✅
"""
PARTY = """A party is planned. The staging area is large.
"""


@pytest.fixture
def index() -> MemoryIndex:
    return held({"MEMORY.md": FACTS, "memory/code.md": CODE, "memory/party-plan.md": PARTY})


def held(documents: dict[str, str]) -> MemoryIndex:
    index = MemoryIndex()
    index.refresh((path, content, content) for path, content in documents.items())
    return index


def whole(index: MemoryIndex, query: str) -> list[SearchResult]:
    """Those that have all that was asked for."""
    return [found for found in index.search(query) if found.score > 0.5]


@pytest.mark.parametrize(
    ("query", "snippet"),
    [
        ("deployment", "The deployment of the billing service runs on staging first."),
        ("DEPLOY", "The deployment of the billing service runs on staging first."),
        ("staging billing", "The deployment of the billing service runs on staging first."),
        ('"billing service"', "The deployment of the billing service runs on staging first."),
        ("MASSEINHEIT", "Die Maßeinheit ist Zentimeter; er wohnt in der Müllerstraße."),
        ("mullerstrasse", "Die Maßeinheit ist Zentimeter; er wohnt in der Müllerstraße."),
        ("müller", "Die Maßeinheit ist Zentimeter; er wohnt in der Müllerstraße."),
        ("Mu\u0308llerstraße", "Die Maßeinheit ist Zentimeter; er wohnt in der Müllerstraße."),
        ("北京", "我住在北京大学附近，喜欢喝茶。"),
        ("大学附近", "我住在北京大学附近，喜欢喝茶。"),
        ("茶", "我住在北京大学附近，喜欢喝茶。"),
        ("喝茶 北京", "我住在北京大学附近，喜欢喝茶。"),
        ("東京", "東京タワーの近くに住んでいます。"),
        ("ﾀﾜｰ", "東京タワーの近くに住んでいます。"),
        ("住んで", "東京タワーの近くに住んでいます。"),
        ("학교", "우리 학교에서 공부한다."),
        ("ข้าว", "ฉันชอบกินข้าวผัด"),
        ("المكتبة", "ذهب أحمد إلى المَكتَبة أمس"),
        ("احمد", "ذهب أحمد إلى المَكتَبة أمس"),
        ("हिन्दी", "मुझे हिन्दी पसंद है"),
        ("parserequestid", "Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py."),
        ("request id", "Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py."),
        ("parse_request_id", "Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py."),
        ("retry", "Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py."),
        ("http_client.py", "Call `parseRequestId(text)` before max_retry_count is read, see src/net/http_client.py."),
        ("ops@example.com", "Mail goes to ops@example.com 🎉 with v1.22.3 ✅"),
        ("1.22", None),
        ("v1.22.3", "Mail goes to ops@example.com 🎉 with v1.22.3 ✅"),
        ("🎉", "Mail goes to ops@example.com 🎉 with v1.22.3 ✅"),
        ("✅", "Mail goes to ops@example.com 🎉 with v1.22.3 ✅"),
        ('"service billing"', None),
        ("ploy", None),
        ("京北", None),
    ],
)
def test_search_finds_the_line(index: MemoryIndex, query: str, snippet: str | None) -> None:
    found = whole(index, query)
    assert [result.snippet for result in found[:1]] == ([snippet] if snippet else [])
    for result in found:
        text = {"MEMORY.md": FACTS, "memory/code.md": CODE, "memory/party-plan.md": PARTY}[result.path].split("\n")
        assert result.snippet == "\n".join(text[result.line_start - 1 : result.line_end])


@pytest.mark.parametrize("query", ["", " ", "*", '"', "'", "()", "--", "\x00", "\ud800", "。", "x" * 5000, "{", "z"])
def test_nothing_to_look_for_finds_nothing(index: MemoryIndex, query: str) -> None:
    assert index.search(query) == []


@pytest.mark.parametrize(
    "query",
    [
        'party" OR "billing',
        "title : party",
        "NEAR(party billing)",
        "party AND NOT billing*",
        "^party + plan",
        "-party",
        "party'; DROP TABLE passages; --",
        '{title words}: "party"',
        "par*ty",
    ],
)
def test_query_is_never_syntax(index: MemoryIndex, query: str) -> None:
    index.search(query)
    assert whole(index, "billing")


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=60) | st.text('ab"*():^-+{}ANDORNT 京\x00', max_size=40))
def test_any_text_is_a_query(query: str) -> None:
    index = held({"MEMORY.md": f"# {query}\n{query}\nparty"})
    found = index.search(query)
    assert bool(found) == bool(tokenize(query))


@given(st.text("北京大学的校训茶叶", min_size=3, max_size=30), st.data())
def test_any_part_of_a_sentence_without_spaces_is_found(sentence: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sentence) - 1))
    end = data.draw(st.integers(start + 1, len(sentence)))
    assert whole(held({"MEMORY.md": f"前言\n\n{sentence}\n"}), sentence[start:end])


def test_whole_matches_come_before_partial_ones(index: MemoryIndex) -> None:
    found = index.search("staging party")
    assert [result.path for result in found] == ["memory/party-plan.md", "MEMORY.md"]
    assert found[0].score == 1.0
    assert found[1].score <= 0.5


def test_question_in_chinese_finds_what_shares_words_with_it(index: MemoryIndex) -> None:
    assert index.search("北京大学在哪里？")[0].snippet == "我住在北京大学附近，喜欢喝茶。"


def test_heading_and_path_weigh_more_than_text() -> None:
    index = held(
        {
            "memory/a.md": "falcon is mentioned here among many other words\n",
            "memory/b.md": "# Falcon\n\nWhat flies.\n",
            "memory/falcon.md": "What flies, too.\n",
            **{f"memory/other{number}.md": "something else\n" for number in range(10)},
        }
    )
    assert [result.path for result in index.search("falcon")][2:] == ["memory/a.md"]


def test_one_word_in_a_heading_outweighs_the_same_word_said_often() -> None:
    index = held(
        {
            "memory/a.md": "falcon falcon falcon here\n",
            "memory/b.md": "# Falcon\n\nWhat flies.\n",
            **{f"memory/other{number}.md": "something else\n" for number in range(10)},
        }
    )
    assert [result.path for result in index.search("falcon")] == ["memory/b.md", "memory/a.md"]


def test_text_below_a_heading_is_found_by_both(index: MemoryIndex) -> None:
    assert whole(index, "straßen zentimeter")[0].line_start in (6, 8)


def test_passage_of_a_long_document_is_found_where_it_is() -> None:
    lines = [f"line {number} about nothing" for number in range(1, 2001)]
    lines[1233] = "here lies the needle"
    (found,) = whole(held({"MEMORY.md": "\n".join(lines)}), "needle")
    assert (found.line_start, found.line_end, found.snippet) == (1234, 1234, "here lies the needle")


def test_very_long_line_is_shown_around_what_was_found() -> None:
    line = "words " * 9000 + "needle " + "words " * 9000
    (found,) = whole(held({"MEMORY.md": f"first\n{line}\n"}), "needle")
    assert (found.line_start, found.line_end) == (2, 2)
    assert "needle" in found.snippet
    assert len(found.snippet) < 300


def test_hash_in_code_is_no_heading() -> None:
    index = held({"MEMORY.md": "# Top\n```\n# comment\ncode\n```\n\n## Below\ntext\n"})
    assert [found.path for found in whole(index, "top comment")] == ["MEMORY.md"]


def test_fence_of_the_other_kind_ends_no_code() -> None:
    index = held({"MEMORY.md": "# Top\n```\n~~~\n# comment\n```\n"})
    assert [found.path for found in whole(index, "top comment")] == ["MEMORY.md"]


@pytest.mark.parametrize(
    ("text", "query"), [("Smørrebrød, Łódź", "smorrebrod lodz"), ("Zu\u00adcker", "zucker"), ("a\u200bb", "ab")]
)
def test_letters_that_look_alike_and_what_is_not_seen_make_no_difference(text: str, query: str) -> None:
    assert whole(held({"MEMORY.md": text}), query)


def test_what_is_beyond_the_limits_of_a_query_is_not_looked_for() -> None:
    index = held({"MEMORY.md": "word"})
    assert whole(index, "word " + " " * QUERY_MAX_CHARS + "absent")
    assert len(parse_query(" ".join(f"word{number}" for number in range(40))).terms) == TERMS_MAX


def test_index_that_could_not_be_filled_is_filled_anew() -> None:
    index = held({"MEMORY.md": "apples"})

    def broken() -> Iterator[tuple[str, str, str]]:
        yield "memory/a.md", "a", "pears"
        raise OSError("the disk went away")

    with pytest.raises(OSError):
        index.refresh(broken())
    index.refresh([("MEMORY.md", "apples", "apples"), ("memory/a.md", "a", "pears")])
    assert whole(index, "apples")
    assert whole(index, "pears")


def test_limit_is_kept(index: MemoryIndex) -> None:
    many = held({f"memory/{number}.md": "same words" for number in range(80)})
    assert len(many.search("same", 3)) == 3
    assert len(many.search("same", 1000)) == 50
    assert many.search("same", 0) == []


def test_only_what_changed_is_read_again(index: MemoryIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    add = MemoryIndex._add
    monkeypatch.setattr(MemoryIndex, "_add", lambda self, path, text: (read.append(path), add(self, path, text)))
    index.refresh([("MEMORY.md", FACTS, FACTS), ("memory/code.md", "other", "other words")])
    assert read == ["memory/code.md"]
    assert whole(index, "billing")
    assert whole(index, "other words")
    assert not whole(index, "party")


@given(st.text(st.characters(), max_size=60))
def test_tokens_hold_nothing_that_means_anything_to_the_database(text: str) -> None:
    for token in tokenize(text) + identifier_parts(text):
        assert token
        assert all(not character.isascii() or character.isalnum() or character == "_" for character in token)
        assert not any(character.isspace() for character in token)
        assert token == token.lower()


@given(st.text(st.characters(), max_size=40))
def test_tokens_of_a_text_are_the_same_in_any_normal_form(text: str) -> None:
    import unicodedata

    assert tokenize(unicodedata.normalize("NFD", text)) == tokenize(unicodedata.normalize("NFC", text))
