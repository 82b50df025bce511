"""The published procedure in plain code: the model runs again for each prefix, then an SVD.

From arXiv 2605.30018 and the description of its code: prefixes of C/10, 2C/10, ..., C tokens; at
each the entropy at the last position, its mean over prompts, and PR and ER of the covariance of all
rows pooled over prompts, divided by min(N, d). Nothing of its code is copied.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers.outputs import entropies, save_profile
from benchmarks.peers.sides import Run
from benchmarks.peers.sides.loading import load_model
from benchmarks.peers.work import Work


def load(work: Work) -> Run:
    """Load the model."""
    model = load_model(work)

    def run(out: Path) -> None:
        out.mkdir()
        save_profile(out, pass_for_each_prefix(model, work.prompts, work.prefixes))

    return run


@torch.inference_mode()
def pass_for_each_prefix(
    model: Any, prompts: Sequence[Sequence[int]], prefixes: Sequence[int], *, passes: int = 1
) -> list[tuple[float, float, float]]:
    """(mean entropy / ln V, PR / r, ER / r) of `final` at each prefix, a prompt at a time.

    passes: 2 for the first version, which ran one for the entropy and one for the states.
    """
    result = []
    for prefix in prefixes:
        shares, rows = [], []
        for ids in prompts:
            for _ in range(passes):
                output = model(torch.tensor([ids[:prefix]]), output_hidden_states=True)
            (entropy,) = entropies(output.logits[0, -1:]).tolist()
            shares.append(entropy / np.log(output.logits.shape[-1]))
            rows.append(output.hidden_states[-1][0].float().numpy())
        result.append((float(np.mean(shares)), *ranks_by_svd(np.concatenate(rows))))
    return result


def ranks_by_svd(rows: npt.NDArray[np.float32]) -> tuple[float, float]:
    """(PR / r, ER / r) of (N, d) rows."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    _, singular, _ = np.linalg.svd(centred, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    bound = min(rows.shape)
    share = share[share > 0]
    entropy = -(share * np.log(share)).sum()
    return float(1 / (share**2).sum() / bound), float(np.exp(entropy) / bound)
