"""The prompts whose label a probe is most wrong about, with their text."""

from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.probes.analysis import ProbeAnalysis
from lpp.analyze.runs.words import Words

TEXT_TOKENS: Final = 60
"""Number of a prompt's last tokens that are shown."""

SHOWN: Final = 10


def worst_predicted(analysis: ProbeAnalysis, count: int = SHOWN) -> pl.DataFrame:
    """Prompts that the best site's probe scores worst: prompt_id, target, score, and the end of the
    text.

    Of classes, those on the wrong side, the most confident first; of a number, those farthest off.
    Tokens are text if the store has the vocabulary of the run's tokenizer, else ids. Raises
    FormatError for altered bytes.
    """
    labels, run = analysis.labels, analysis.view.run
    target, scores = labels.target.labels, analysis.best.fitted.scores
    if labels.classes:
        off = np.where(target > 0, -scores, scores)  # above 0: the wrong side
        chosen = np.argsort(-off, kind="stable")[: min(count, int((off > 0).sum()))]
        shown = [labels.classes[int(target[k])] for k in chosen]
    else:
        chosen = np.argsort(-np.abs(scores - target), kind="stable")[:count]
        shown = [f"{target[k]:.6g}" for k in chosen]
    prompts = labels.prompts[chosen]
    words, ids = Words(run.vocabulary()), run.prompts()["token_ids"]
    return pl.DataFrame(
        {
            "prompt_id": prompts,
            "target": shown,
            "score": scores[chosen],
            "text_so_far": [words.text(ids[int(k)].as_py()[-TEXT_TOKENS:]) for k in prompts],
        },
        schema={
            "prompt_id": pl.Int32(),
            "target": pl.String(),
            "score": pl.Float64(),
            "text_so_far": pl.String(),
        },
    )
