"""The published procedure in plain code: the model runs again for each prefix, then an SVD.

What both sides start from: a loaded model and the token ids of the prompts. What both end
with: the mean normalised entropy, PR/r and ER/r of `final` at ten prefixes.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, prepared, scratch
from lpp.analyze import scan_entropy, scan_spectra
from lpp.capture.opened import TorchModel
from lpp.capture.planning import Prepared

PROMPTS = 12
REPEATS = 3

Profile = list[tuple[float, float, float]]
"""(entropy / ln V, PR / r, ER / r) for each prefix."""


def measure() -> Iterator[Ratio]:
    """One model to profile, final site, same prompts: theirs / ours."""
    with scratch() as folder:
        ready = prepared(PROMPTS, sites=("final",), logit_positions="schedule")
        numbers = itertools.count()

        def ours() -> Profile:
            return one_pass(ready, folder / str(next(numbers)))

        def theirs() -> Profile:
            return pass_for_each_prefix(ready)

        difference = np.abs(np.array(ours()) - np.array(theirs())).max()
        assert difference < 0.01, difference  # bfloat16 rounds differently in other batches

        def theirs_at_first() -> Profile:
            return pass_for_each_prefix(ready, passes=2)

        for version, procedure in (("", theirs), (", first version (two passes)", theirs_at_first)):
            yield ratio_of_times(
                f"the paper's procedure{version} / ours, `final`, 12 prompts of 200 tokens",
                timed_pairs(ours, procedure, REPEATS),
                bar=25,
                direction="at least",
                inverted=True,
                bound="5.5 times the tokens, and an SVD",
            )


def one_pass(ready: Prepared, root: Path) -> Profile:
    """Capture into a store, then analyse the store."""
    capture(ready, root)
    entropy = scan_entropy(root).sort("prefix").select("entropy_norm")
    ranks = scan_spectra(root).sort("prefix")
    ranks = ranks.select("participation_ratio_norm", "effective_rank_norm")
    frame = pl.concat([entropy.collect(), ranks.collect()], how="horizontal")
    return [(h, pr, er) for h, pr, er in frame.iter_rows()]


@torch.inference_mode()
def pass_for_each_prefix(ready: Prepared, *, passes: int = 1) -> Profile:
    """As published: each prefix of each prompt through the model, the matrix through an SVD.

    passes: 2 for the first version, which ran one for the entropy and one for the states.
    """
    assert isinstance(ready.opened, TorchModel)
    model, result = ready.opened.model, []
    for prefix in ready.plan.prefixes:
        entropies, rows = [], []
        for ids in ready.prompts["token_ids"].to_pylist():
            for _ in range(passes):
                output = model(torch.tensor([ids[:prefix]]), output_hidden_states=True)
            log_p = output.logits[0, -1].float().log_softmax(-1)
            entropies.append(-(log_p.exp() * log_p).sum().item() / np.log(len(log_p)))
            rows.append(output.hidden_states[-1][0].float().numpy())
        result.append((float(np.mean(entropies)), *ranks_by_svd(np.concatenate(rows))))
    return result


def ranks_by_svd(rows: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    """(PR / r, ER / r) of (N, d) rows."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    _, singular, _ = np.linalg.svd(centred, full_matrices=False)
    share = singular**2 / (singular**2).sum()
    bound = min(rows.shape)
    share = share[share > 0]
    entropy = -(share * np.log(share)).sum()
    return float(1 / (share**2).sum() / bound), float(np.exp(entropy) / bound)
