"""Differences of two runs before an item's answer: numbers that may tell which items flip.

All are taken at tokens that both runs read before the answer: the question of the item and the
position that predicts the answer's first token. The answer is left out, because the two runs may
have chosen different ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import drift_at
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.features import AT_ANSWER, IN_QUESTION, mean_of_all, question_spans
from lpp.analyze.numerics.cka import BLOCK_ROWS
from lpp.analyze.numerics.distance import row_drift
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.rows.side_by_side import in_step
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.store.progress import SILENT, Progress


def drift_features(
    pair: Pair, items: EvaluatedItems, *, first_position: int = 0, progress: Progress = SILENT
) -> Mapping[str, Floats]:
    """`DRIFT_FEATURES` of predictions by name: (n,) in the order of `items.table`; NaN: no number.

    items: of run A of the pair. first_position: earlier positions are excluded from the question's.
    KL is NaN without logits (`Pair.no_logits`). Computes the logits of both runs at the tokens of
    the questions, and stores what `drift_at` stores.
    """
    spans = question_spans(items, first_position)
    start, end = pl.min_horizontal("first", "answer"), pl.col("answer") + 1
    chosen = spans.select("prompt_id", position=pl.int_ranges(start, end, dtype=pl.Int32)).explode(
        "position"
    )
    kl, flip = pl.col("kl"), pl.col("flip").cast(pl.Float64)
    numbers = {
        "answer_kl": kl.filter(AT_ANSWER).first(),
        "answer_flip": flip.filter(AT_ANSWER).first(),
        "question_kl": mean_of_all(kl.filter(IN_QUESTION)),
        "question_flips": mean_of_all(flip.filter(IN_QUESTION)),
    }
    tokens = drift_at(pair, chosen, only=("kl", "flip"), progress=progress)
    by_prompt = (
        tokens.join(spans, on="prompt_id", maintain_order="left")
        .group_by("prompt_id")
        .agg(value.alias(name) for name, value in numbers.items())
    )
    beside = items.table.select("prompt_id").join(
        by_prompt, on="prompt_id", how="left", maintain_order="left"
    )
    return {name: beside[name].fill_null(float("nan")).to_numpy() for name in numbers}


def row_change(pair: Pair, items: EvaluatedItems, site: str) -> Floats:
    """`ROW_CHANGE` of a site that has one width in both runs: (n,) in the order of `items.table`.

    NaN for an item whose prompt the pair does not compare. items: of run A of the pair. Reads the
    site of both runs up to the last prompt of `items`. Raises FormatError for altered bytes.
    """
    ids = items.table["prompt_id"].to_numpy()
    answer = np.full(int(ids.max(initial=-1)) + 1, -1)
    answer[ids] = items.table["answer"].to_numpy()
    by_prompt = np.full(len(answer), np.nan)
    count = min(pair.n_prompts, len(answer))
    n = 0
    sources = [(view.run, site) for view in (pair.a, pair.b)]
    for prompt_id, position, (a, b) in in_step(
        sources, range(count), block_rows=BLOCK_ROWS, excluded=pair.excluded, dtype="stored"
    ):
        n += len(position)
        here = answer[prompt_id] == position
        by_prompt[prompt_id[here]] = row_drift(a[here], b[here]).relative_distance
    context = min(view.run.plan.context for view in (pair.a, pair.b))
    SiteReader(pair.a.run, site, pair.lengths).check(Cell(count, context), n)
    changed: Floats = by_prompt[ids]
    return changed


def compared_sites(pair: Pair, sites: Sequence[str]) -> list[str]:
    """The sites whose rows `row_change` can compare: of both runs, with the same width."""
    runs = [view.run for view in (pair.a, pair.b)]
    return [
        site
        for site in sites
        if all(site in run.activation_sites for run in runs)
        and runs[0].site(site).width == runs[1].site(site).width
    ]
