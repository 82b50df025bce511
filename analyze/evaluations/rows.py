"""Features of a site's rows: at the answer's position, and over the question."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.numerics.distance import distances, folds
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.spectrum import rank_bound, ratio_of_sums
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.analyze.numerics.statistics.clusters import recoded

ItemRows = npt.NDArray[np.float32]


class AnswerRows(NamedTuple):
    """Rows of a site at the answers' positions."""

    rows: ItemRows
    """(m, d) rows of the items that have one, in the order of `items.table`."""
    has_row: Flags
    """(n,) which items have a row."""


def features_of(
    answers: AnswerRows, clusters: Codes | None = None, *, seed: int = 0
) -> dict[str, Floats]:
    """row_norm and distance: (n,), NaN: no number. clusters: (n,) which are in one fold. seed: of
    the folds. Cost: that of `distances`.
    """
    rows, has_row = answers
    norms, far = np.full(len(has_row), np.nan), np.full(len(has_row), np.nan)
    if has_row.any():
        norms[has_row] = np.sqrt(np.vecdot(rows, rows, dtype=np.float64))
        of_rows = np.arange(len(rows)) if clusters is None else recoded(clusters[has_row])
        far[has_row] = distances(rows, folds(int(of_rows.max()) + 1, seed=seed)[of_rows])
    return {"row_norm": norms, "distance": far}


def read_rows(
    items: EvaluatedItems, site: str, *, first_position: int = 0
) -> tuple[AnswerRows, dict[str, Floats]]:
    """The rows before the answers, and participation_ratio: (n,) in the order of `items.table`,
    NaN: no number. Reads the site once; holds one row of each item, and the rows of one prompt.
    Cost: m^2 d multiply-adds for an item of m rows.
    """
    table = items.table
    ids = table["prompt_id"].to_numpy()
    count = int(ids.max(initial=-1)) + 1
    first, answer = np.full(count, -1), np.full(count, -2)
    first[ids] = np.maximum(table["question"].to_numpy(), first_position)
    answer[ids] = table["answer"].to_numpy()
    ratios = np.full(count, np.nan)
    at_answer: dict[int, ItemRows] = {}
    parts: list[ItemRows] = []  # of the prompt that is being read
    for block in items.view.run.blocks(site, prompts=count):
        ends = np.flatnonzero(np.diff(block.prompt_id)) + 1
        for start, end in zip((0, *ends), (*ends, len(block.prompt_id)), strict=True):
            prompt, position = int(block.prompt_id[start]), block.position[start:end]
            if position[0] == 0:
                parts = []
            if not position[0] <= answer[prompt]:
                continue  # the rows of an answer, or of a prompt that shows no item
            values = block.values[start:end]
            parts.append(values[(position >= first[prompt]) & (position <= answer[prompt])])
            if answer[prompt] <= position[-1]:
                at_answer[prompt] = values[answer[prompt] - position[0]].copy()
                ratios[prompt] = _participation_ratio(np.concatenate(parts))
    answers = answer_rows(at_answer, ids, items.view.run.site(site).width)
    return answers, {"participation_ratio": ratios[ids]}


def answer_rows(by_prompt: Mapping[int, ItemRows], ids: Codes, width: int) -> AnswerRows:
    """Rows of the prompts `ids`, (n,), as far as `by_prompt` has one; `width` columns."""
    has_row: Flags = np.array([prompt in by_prompt for prompt in ids.tolist()], dtype=bool)
    rows = [by_prompt[prompt] for prompt in ids[has_row].tolist()]
    return AnswerRows(np.stack(rows) if rows else np.empty((0, width), np.float32), has_row)


def _participation_ratio(rows: ItemRows) -> float:
    """Participation ratio from the m x m products of the rows, which have the covariance's
    eigenvalues.

    NaN for fewer than two rows.
    """
    m, d = rows.shape
    if m < 2:
        return float("nan")
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    products = (centred @ centred.T).ravel()
    total = float(np.trace(products.reshape(m, m)))
    return ratio_of_sums(total, float(products @ products), rank_bound(m, d))
