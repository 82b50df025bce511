"""The packaged cloze task: its items tell the answer by nothing but the sentence."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from lpp.capture.corpus.pydoc import articles
from lpp.capture.evaluation.tasks.load import load_tasks
from lpp.capture.synthetic.items import read_items
from lpp.store.errors import InputError

N_ITEMS, CHOICES, RATIO = 240, 4, 2
BLOCK = CHOICES**2

Item = SimpleNamespace


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [Item(**item) for item in read_items("cloze")["test"]]


def test_there_are_whole_blocks_of_items_from_many_topics(items: list[Item]) -> None:
    assert len(items) == N_ITEMS
    assert len({item.topic for item in items}) > 20
    assert len({item.text for item in items}) == N_ITEMS


def test_the_right_answer_fills_the_blank(items: list[Item]) -> None:
    def one_line(text: str) -> str:
        return re.sub(r"\s+", " ", text)

    reference = " ".join(map(one_line, articles().values()))
    for item in items:
        word = item.choices[item.gold]
        assert item.text.startswith(f"{item.before} ____")
        assert one_line(item.text.replace("____", word)) in reference
        assert item.before


def test_choices_have_one_length_and_close_frequencies(items: list[Item]) -> None:
    for item in items:
        assert len(set(item.choices)) == CHOICES
        assert len({len(word) for word in item.choices}) == 1
        right = item.frequencies[item.gold]
        assert all(1 / RATIO <= one / right <= RATIO for one in item.frequencies)
        others = [word for n, word in enumerate(item.choices) if n != item.gold]
        assert not any(word in item.text.lower() for word in others)


def test_place_and_rank_of_the_right_answer_are_each_pair_once_in_a_block(
    items: list[Item],
) -> None:
    for start in range(0, N_ITEMS, BLOCK):
        cells = [
            (item.gold, sum(one < item.frequencies[item.gold] for one in item.frequencies))
            for item in items[start : start + BLOCK]
        ]
        assert Counter(cells) == Counter((g, r) for g in range(CHOICES) for r in range(CHOICES))


def test_the_task_is_known_by_its_name(items: list[Item], tmp_path: Path) -> None:
    (loaded,) = load_tasks(["pydoc_cloze"])
    task = loaded["tasks"]["pydoc_cloze"]
    first = next(iter(task.eval_docs))
    assert (first["text"], first["gold"]) == (items[0].text, items[0].gold)
    assert task.doc_to_choice(first) == items[0].choices
    context = task.doc_to_text(first)
    assert context.endswith(f"Answer: {items[0].before}")
    with pytest.raises(InputError, match="no such file"):
        load_tasks([str(tmp_path / "pydoc_cloze.yaml")])
