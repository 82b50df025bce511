"""Statistics of the logits in float64 NumPy, one row at a time, and comparisons with them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lpp.capture.backends.logit_statistics.statistics import STATISTICS

Columns = dict[str, npt.NDArray[Any]]
"""Name of a statistic -> (n,)."""


class Given(nn.Module):
    """'Unembeds' rows to themselves, so the input of the statistics is known exactly."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def reference(logits: npt.NDArray[Any], next_ids: list[int]) -> Columns:
    """The statistics of (n, V) logits. A row whose largest logit is not finite is NaN."""
    columns: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for row, following in zip(logits.astype(np.float64), next_ids, strict=True):
        if not np.isfinite(row.max()):
            for name, values in columns.items():
                values.append(0 if name in ("next_rank", "top1_id") else math.nan)
            continue
        log_z = row.max() + math.log(np.exp(row - row.max()).sum())
        log_p = row - log_z
        held = log_p[log_p > -math.inf]
        ordered = np.sort(log_p)[::-1]
        columns["entropy"].append(-(np.exp(held) * held).sum())
        columns["log_z"].append(log_z)
        columns["max_logprob"].append(ordered[0])
        columns["margin"].append(ordered[0] - ordered[1] if len(row) > 1 else math.inf)
        columns["next_logprob"].append(log_p[following] if following >= 0 else math.nan)
        columns["next_rank"].append(1 + (row > row[following]).sum() if following >= 0 else 0)
        columns["top1_id"].append(int(np.flatnonzero(row == row.max())[0]))
        about = held + columns["entropy"][-1]
        columns["varentropy"].append((np.exp(held) * about**2).sum())
    return {name: np.array(values) for name, values in columns.items()}


def assert_equal(mine: Columns, expected: Columns, atol: float) -> None:
    """Compare within `atol` and rounding; ids and ranks exactly, if the row is not NaN."""
    assert list(mine) == list(STATISTICS)
    real = ~np.isnan(expected["log_z"])
    for name in ("next_rank", "top1_id"):
        assert mine[name].dtype == np.int32
        np.testing.assert_array_equal(mine[name][real], expected[name][real], err_msg=name)
    for name in ("entropy", "log_z", "max_logprob", "margin", "next_logprob"):
        assert mine[name].dtype == np.float32
        np.testing.assert_allclose(
            mine[name], expected[name], rtol=2e-6, atol=atol, err_msg=name, equal_nan=True
        )
    assert mine["varentropy"].dtype == np.float32
    assert np.isnan(mine["varentropy"][~real]).all()
    varentropy = mine["varentropy"][real]
    error = np.abs(varentropy - expected["varentropy"][real])
    assert np.all(error <= 5e-7 * expected["varentropy"][real] + atol), error
    assert np.all(varentropy >= 0)


def levels(vocabulary: int) -> list[tuple[torch.Tensor, float, float]]:
    """Logits with the bounds of their errors in `TokenStatistics`: of entropy and of varentropy.

    Normal logits, more of them at the largest errors (standard deviations 3 and 4), and logits with
    two levels.
    """
    generator = torch.Generator().manual_seed(vocabulary)
    deviations = torch.tensor([0, 0.01, 0.3, 1, 2, 3, 3, 4, 4, 5, 6, 8, 10, 20, 30])
    normal = torch.randn(len(deviations), vocabulary, generator=generator) * deviations[:, None]
    two_levels = torch.zeros(12, vocabulary)
    for row, gap in zip(two_levels, range(4, 16), strict=True):
        row[7 :: 1 + (4 * gap) ** 2 if gap % 2 else vocabulary] = gap
    return [(normal, 1e-6, 3e-6), (two_levels, 5e-6, 6e-5)]


def assert_within(mine: Columns, expected: Columns, entropy: float, varentropy: float) -> None:
    """Compare within the errors that `TokenStatistics` documents; ids and ranks exactly."""
    error = {name: np.abs(mine[name] - expected[name]) for name in STATISTICS}
    assert error["entropy"].max() < entropy
    assert error["varentropy"].max() < varentropy
    for name in ("log_z", "max_logprob", "margin", "next_logprob"):
        assert np.all(error[name] < 1e-6 + 1.2e-7 * np.abs(expected[name])), name
    assert not error["next_rank"].any()
    assert not error["top1_id"].any()


def odd_rows(width: int) -> tuple[torch.Tensor, list[int]]:
    """(9, width) logits: special rows between two plain ones, and the token after each row."""
    logits = torch.randn(9, width, generator=torch.Generator().manual_seed(width)) * 3
    logits[1, [0, width // 2, width - 1]] = 20.0  # ties of the largest
    logits[2] = -1.5  # all equal
    logits[3] = -math.inf
    logits[3, width // 2] = 2.0  # one finite
    logits[4, width // 2 :] = -math.inf
    logits[4, 0] = 1.0  # half -inf
    logits[5, width // 3] = math.nan
    logits[6] = -math.inf
    logits[7, width - 1] = math.inf
    last = width - 1
    return logits, [-1, last, last, 0, last, 0, 0, 0, width // 2]
