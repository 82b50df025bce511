"""Which passages become prompts: the rule's promises, as properties."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Corpus, Passage
from lpp.capture.corpus.selection import Selection, draw, select
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import Kept


def corpus_of(texts: Sequence[str]) -> Corpus:
    return Corpus(
        name="made",
        revision=None,
        fingerprint="0" * 32,
        rule="as given",
        passages=[Passage(row, text) for row, text in enumerate(texts)],
    )


def words(text: str) -> int:
    return len(text.split())


How = Literal["first", "random"]
TEXTS = st.lists(st.text(alphabet="ab é🙂", max_size=12), min_size=1, max_size=60)
HOW = st.sampled_from(["first", "random"])


@given(texts=TEXTS, how=HOW, seed=st.integers(0, 2**64 - 1), data=st.data())
def test_selection_is_a_repeatable_subset_of_the_eligible(
    texts: list[str], how: How, seed: int, data: st.DataObject
) -> None:
    least = data.draw(st.integers(0, 6))
    eligible = [row for row, text in enumerate(texts) if len(text.encode()) >= least]
    if not eligible:
        return
    count = data.draw(st.integers(1, len(eligible)))
    rule = Selection(prompts=count, min_bytes=least, select=how, seed=seed)
    corpus = corpus_of(texts)
    chosen = select(corpus, rule)
    chosen_rows = [passage.source_row for passage in chosen]
    assert len(chosen) == count
    assert len(set(chosen_rows)) == count
    assert set(chosen_rows) <= set(eligible)
    assert [texts[row] for row in chosen_rows] == [passage.text for passage in chosen]
    assert select(corpus, rule) == chosen
    if how == "first":
        assert chosen_rows == eligible[:count]


@given(texts=TEXTS, how=HOW, data=st.data())
def test_first_n_of_a_selection_are_the_selection_of_n(
    texts: list[str], how: How, data: st.DataObject
) -> None:
    corpus = corpus_of(texts)
    count = data.draw(st.integers(1, len(texts)))
    everything = select(corpus, Selection(prompts=len(texts), min_bytes=0, select=how))
    some = select(corpus, Selection(prompts=count, min_bytes=0, select=how))
    assert everything[:count] == some


@given(seed=st.integers(0, 2**64 - 1), count=st.integers(1, 40))
def test_random_is_the_sorted_draws(seed: int, count: int) -> None:
    """The slow reference: every row's number, sorted."""
    key = seed.to_bytes(8, "little")
    reference = sorted(range(40), key=lambda row: draw(row, key))[:count]
    rule = Selection(prompts=count, min_bytes=0, select="random", seed=seed)
    chosen = select(corpus_of(["x"] * 40), rule)
    assert [passage.source_row for passage in chosen] == reference


def test_random_is_the_same_everywhere() -> None:
    """Pinned: another Python, machine or release must draw these rows."""
    rule = Selection(prompts=8, min_bytes=0, select="random", seed=42)
    chosen = select(corpus_of(["x"] * 1000), rule)
    assert [passage.source_row for passage in chosen] == [992, 754, 170, 172, 429, 473, 171, 571]


def test_random_is_uniform() -> None:
    """20 rows, 5 drawn, 4,000 fixed seeds: each row, and each place, as often as any other."""
    corpus = corpus_of(["x"] * 20)
    seen, first = [0] * 20, [0] * 20
    for seed in range(4000):
        rule = Selection(prompts=5, min_bytes=0, select="random", seed=seed)
        chosen = [passage.source_row for passage in select(corpus, rule)]
        first[chosen[0]] += 1
        for row in chosen:
            seen[row] += 1
    # Expected 1,000 with a standard deviation of 27, and 200 with one of 14; five of each.
    assert all(863 < n < 1137 for n in seen)
    assert all(131 < n < 269 for n in first)


def test_seeds_draw_different_samples() -> None:
    samples = {
        tuple(
            p.source_row
            for p in select(
                corpus_of(["x"] * 50),
                Selection(prompts=5, min_bytes=0, select="random", seed=seed),
            )
        )
        for seed in (0, 1, 2**32, 2**63)
    }
    assert len(samples) == 4


@pytest.mark.parametrize("how", ["first", "random"])
def test_tokens_of_a_named_tokenizer(how: How) -> None:
    corpus = corpus_of(["one two three", "a b", "x" * 40, "one two three four"])
    rule = Selection(prompts=2, min_bytes=3, min_tokens=3, count_with="words", select=how)
    assert sorted(p.source_row for p in select(corpus, rule, words)) == [0, 3]


def test_tokens_are_counted_no_more_than_needed() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 5

    texts = [f"text {row}" for row in range(3000)]
    rule = Selection(prompts=10, min_bytes=0, min_tokens=2, count_with="c", select="random")
    select(corpus_of(texts), rule, count)
    assert len(counted) < 150  # 10 (1 + ln 300) = 67 expected, not 3,000
    counted.clear()
    rule = Selection(prompts=10, min_bytes=0, min_tokens=2, count_with="c")
    select(corpus_of(texts), rule, count)
    assert counted == texts[:10]


def test_first_stops_reading_when_it_has_enough() -> None:
    def endless() -> Iterator[Passage]:
        for row in range(10):
            yield Passage(row, "long enough")
        raise AssertionError("read on")

    corpus = Corpus(name="n", revision=None, fingerprint="f", rule="r", passages=endless())
    assert len(select(corpus, Selection(prompts=10, min_bytes=0))) == 10


@pytest.mark.parametrize("how", ["first", "random"])
def test_more_than_there_are_takes_all_and_says_so(how: How) -> None:
    corpus = corpus_of(["a", "aa bb", "a b c", "aaaaaa"])
    exact = select(corpus, Selection(prompts=3, min_bytes=5, select=how))
    for prompts, lines in ((9, 1), (3, 0), (None, 0)):
        said = Kept()
        few = Selection(prompts=prompts, min_bytes=5, select=how)
        assert select(corpus, few, progress=said) == exact
        assert len(said.lines) == lines
        assert all("3 of 4 texts" in line and "--prompts 9" in line for line in said.lines)
    said = Kept()
    rule = Selection(prompts=9, min_bytes=5, min_tokens=2, count_with="words", select=how)
    assert len(select(corpus, rule, words, said)) == 2
    assert "2 of 4 texts are long enough (3 of at least 5 bytes, 2 of 2 tokens" in said.lines[0]


@pytest.mark.parametrize("how", ["first", "random"])
def test_none_that_is_long_enough_is_refused_with_options_that_take_every_text(how: How) -> None:
    corpus = corpus_of(["a", "aa bb", "a b c", "aaaaaa"])
    wanted = Selection(prompts=9, min_bytes=50, min_tokens=9, count_with="words", select=how)
    with pytest.raises(InputError, match="0 of 4 texts are long enough") as caught:
        select(corpus, wanted, words)
    assert caught.value.kind is ErrorKind.INCOMPLETE
    assert "--min-bytes 0 --min-tokens 1" in str(caught.value)
    assert len(select(corpus, replace(wanted, min_bytes=0, min_tokens=1), words)) == 4


@pytest.mark.parametrize("how", ["first", "random"])
def test_the_default_says_how_many_texts_there_are(how: How, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(['{"text": "ab"}', '{"text": ""}'] * 4))
    corpus = open_corpus(tmp_path / "t.jsonl")
    for prompts, lines in ((3, 1), (4, 0), (9, 0)):
        corpus, said = open_corpus(tmp_path / "t.jsonl"), Kept()
        chosen = select(
            corpus,
            Selection(prompts=prompts, unasked=True, min_bytes=1, select=how),
            progress=said,
        )
        assert len(chosen) == min(prompts, 4)
        assert len(said.lines) == lines
        assert all("3 of 4 texts" in line and "--prompts all" in line for line in said.lines)
        asked = open_corpus(tmp_path / "t.jsonl")
        select(asked, Selection(prompts=prompts, min_bytes=1, select=how))
        assert corpus.refused.table() == asked.refused.table()  # counting sets nothing aside


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompts": 0}, "--prompts 0"),
        ({"min_bytes": -1}, "--min-bytes -1"),
        ({"min_tokens": 0, "count_with": "t"}, "--min-tokens 0"),
        ({"min_tokens": 128}, "--min-tokens and --count-with go together"),
        ({"count_with": "t"}, "--min-tokens and --count-with go together"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**64}, "--seed"),
    ],
)
def test_impossible_rules(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Selection(**wrong)
    assert caught.value.kind == ErrorKind.INVALID_VALUE
