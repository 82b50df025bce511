"""The prompts whose label a probe is most wrong about, with their text."""

from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.probes.rows import ProbeAnalysis
from lpp.analyze.runs.words import Words

TEXT_TOKENS: Final = 60
"""Number of a prompt's last tokens that are shown."""

_SHOWN: Final = 10


def worst_predicted(analysis: ProbeAnalysis, count: int = _SHOWN) -> pl.DataFrame:
    """Prompts that the best site's probe scores worst: prompt_id, position of the row, target,
    score, and the end of the text up to the row.

    Of classes, those on the wrong side, the most confident first; of several, those whose own class
    has the least log odds, below 0; of a number, those farthest off. Tokens are text if the store
    has the vocabulary of the run's tokenizer, else ids. Raises FormatError for altered bytes.
    """
    labels, run, which = analysis.labels, analysis.view.run, analysis.which
    scores, codes, classes = analysis.best.fitted.scores, labels.codes, labels.classes
    if classes is None:
        chosen = np.argsort(-np.abs(scores - codes), kind="stable")[:count]
        shown = [f"{codes[k]:.6g}" for k in chosen]
    else:
        own = codes.astype(np.int64)
        if scores.ndim > 1:
            scores = scores[np.arange(len(own)), own]
        off = -scores if classes[2:] else np.where(own > 0, -scores, scores)  # above 0: wrong
        chosen = np.argsort(-off, kind="stable")[: min(count, int((off > 0).sum()))]
        shown = [classes[own[k]] for k in chosen]
    prompts = labels.prompts[chosen]
    ends = np.full(len(chosen), which + 1) if isinstance(which, int) else labels.ends[chosen]
    words, ids = Words(run.vocabulary()), run.prompts()["token_ids"]
    texts = [
        words.text(ids[k].as_py()[:end][-TEXT_TOKENS:])
        for k, end in zip(prompts.tolist(), ends.tolist(), strict=True)
    ]
    columns = {
        "prompt_id": (prompts, pl.Int32()),
        "position": (ends - 1, pl.Int32()),
        "target": (shown, pl.String()),
        "score": (scores[chosen], pl.Float64()),
        "text_so_far": (texts, pl.String()),
    }
    return pl.DataFrame(
        {name: values for name, (values, _) in columns.items()},
        schema={name: kind for name, (_, kind) in columns.items()},
    )
