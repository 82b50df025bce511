"""Heads for runs of made-up rows: the matrix that turns rows of `final` into logits."""

from pathlib import Path
from typing import Any

import numpy as np

from lpp.store.format.plan import Plan, StoredDtype
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent
from lpp.store.shared.matrices import Matrix


def random_matrix(rows: int, width: int, seed: int, dtype: StoredDtype = "float32") -> Matrix:
    """Normal values with a standard deviation of 1/4."""
    weight: Any = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32) / 4
    if dtype == "bfloat16":
        weight = (weight.view(np.uint32) >> 16).astype(np.uint16)
    return Matrix(dtype=dtype, weight=weight)


def keep_head(root: Path, plan: Plan, seed: int = 5, dtype: StoredDtype = "float32") -> None:
    """Store a head for the model of a run in the store at `root`."""
    matrix = random_matrix(plan.model.logits_width, plan.model.hidden_size, seed, dtype)
    commit_head(objects_at(root), plan, HeadContent(matrix=matrix))
