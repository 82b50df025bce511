"""A run that is a teacher: rows of `final`, a head, a loss mask; and its distributions, slowly."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from kept_heads import keep_head
from scipy.special import log_softmax
from small_capture import make_capture

from lpp.store import Run
from lpp.store.format.plan import SiteDtype, SiteSpec
from lpp.store.shared.logits import Head

WIDTH: Final = 4
VOCABULARY: Final = 53
LENGTHS: Final = (6, 3, 7, 1, 6, 5, 7, 2, 4, 6)


def write_teacher(root: Path, dtype: SiteDtype | None = None) -> Run:
    """Ten prompts in two shards; the fourth has no loss mask. dtype: of the rows on disk."""
    n = sum(LENGTHS)
    values = np.random.default_rng(1).normal(size=(n, WIDTH)).astype(np.float32) * 6
    hidden = {"final": (values.view(np.uint32) >> 16).astype(np.uint16)}
    site = SiteSpec(name="final", convention="post_norm", width=WIDTH, dtype=dtype)
    made = make_capture(LENGTHS, (0, 4, 10), hidden, context=7, prefixes=(7,))
    masks = [None if k == 3 else [t % 2 == 0 for t in range(m)] for k, m in enumerate(LENGTHS)]
    mask = pa.array(masks, pa.list_(pa.bool_()))
    labelled = replace(made.plan.prompts, token_columns=("token.loss_mask",))
    made = replace(
        made,
        plan=replace(made.plan, prompts=labelled, sites=(site,)),
        prompts=made.prompts.append_column("token.loss_mask", mask),
    )
    run = made.write(root)
    keep_head(root, made.plan)
    return run


def reference_logprobs(head: Head, final: Any, temperature: float = 1.0) -> np.ndarray:
    """Ln p in float64, (n, V), from the matrix alone."""
    logits = np.asarray(final, np.float64) @ head.weight.astype(np.float64).T
    values: np.ndarray = log_softmax(logits / temperature, axis=1)
    return values
