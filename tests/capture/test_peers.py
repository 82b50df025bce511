"""The comparison with other libraries: its sides agree, and one that computes another thing shows.

nnsight and TransformerLens are not installed here: `make bench-peers` runs them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import check, page
from benchmarks.peers.outputs import entropies
from benchmarks.peers.sides import SIDES

HERE = Path(page.__file__).parent
CONTEXT, PROMPTS = 40, 5


def test_entropies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -1e9, -1e9, -1e9]], dtype=torch.bfloat16)
    assert entropies(logits).tolist() == pytest.approx([np.log(4), 0])


def tables(found: page.Found) -> Iterator[str]:
    for name in (HERE / page.PAGE, HERE.parent / page.PAGE, HERE.parent.parent / page.PAGE):
        text = name.read_text("utf-8")
        assert page.filled(text, found) == text
        yield from re.findall(r"<!-- table: ([a-z-]+) -->", text)


def test_the_committed_tables_are_those_of_the_committed_results() -> None:
    found = json.loads((HERE / page.RESULTS).read_text("utf-8"))
    assert set(tables(found)) == set(page.TABLES)
    assert set(found["sides"]) == set(SIDES)
    assert {len(one["whole_s"]) for one in found["sides"].values()} == {found["setting"]["rounds"]}
    assert list(check.problems(found["agreement"])) == []
