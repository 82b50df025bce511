"""Groups of prompts that a jackknife leaves out, one after the other.

By default they are neighbouring prompts. Prompts that share a document, a scene or an author are
no independent sample even where they do not lie side by side: `Clusters` leave the sample whole.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lpp.analyze.numerics.statistics.clusters import cluster_codes
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.store.errors import InputError
from lpp.store.format.schedule import GROUPS, group_boundaries
from lpp.store.runs.read import Run

__all__ = ["GROUPS", "Clusters", "Groups", "Integers", "Spans", "clusters_of", "group_of", "spans"]

Integers = npt.NDArray[np.integer]

Spans = tuple[tuple[int, int], ...]
"""Some prompts, as runs of neighbours: the first of each run and the one after its last."""


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Prompts divided into clusters; a group of the jackknife has whole clusters."""

    of: Integers = field(repr=False)
    """(P,) cluster of each prompt, a number from 0."""
    groups: int = GROUPS
    """Most groups; fewer clusters are as many groups."""

    def only(self, prompts: Integers) -> "Clusters":
        """The clusters of some of the prompts, which are numbered again from 0."""
        return Clusters(self.of[prompts], self.groups)


Groups = int | Clusters
"""So many groups of neighbouring prompts, or groups of whole clusters."""


def group_of(groups: Groups, n_prompts: int) -> Integers:
    """(n_prompts,) group of each of the first prompts, from 0; groups have about equal sizes.

    Clusters come in the order of their first prompt. A group ends with the cluster that reaches its
    share of the prompts, so clusters of one prompt give the groups of neighbouring prompts.

    >>> group_of(3, 7).tolist()
    [0, 0, 1, 1, 2, 2, 2]
    >>> group_of(Clusters(np.array([4, 4, 2, 4, 2, 9]), groups=2), 6).tolist()
    [0, 0, 1, 0, 1, 1]
    """
    edges = group_boundaries(n_prompts, groups if isinstance(groups, int) else groups.groups)
    if isinstance(groups, int):
        return np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    _, first, cluster, size = np.unique(
        groups.of[:n_prompts], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    begins = np.empty(len(order), dtype=np.int64)
    begins[order] = np.cumsum(size[order]) - size[order]
    group = np.searchsorted(edges, begins, side="right") - 1
    _, without_gaps = np.unique(group, return_inverse=True)  # a large cluster can fill two groups
    return np.asarray(without_gaps[cluster])


@lru_cache(maxsize=64)  # every metric of every cell asks for them
def spans(groups: Groups, n_prompts: int) -> tuple[Spans, ...]:
    """The prompts of each group, for the first `n_prompts` prompts; none for fewer than two groups.

    >>> spans(3, 7)
    (((0, 2),), ((2, 4),), ((4, 7),))
    >>> spans(Clusters(np.array([0, 1, 0])), 3)
    (((0, 1), (2, 3)), ((1, 2),))
    """
    group = group_of(groups, n_prompts)
    parts = tuple(runs_of(group == number) for number in range(int(group.max(initial=-1)) + 1))
    return parts if len(parts) > 1 else ()


def runs_of(chosen: npt.NDArray[np.bool_]) -> Spans:
    """The chosen prompts, (n,), as runs of neighbours.

    >>> runs_of(np.array([True, True, False, True]))
    ((0, 2), (3, 4))
    """
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def clusters_of(run: Run, name: str, groups: int = GROUPS) -> Clusters:
    """The clusters of the prompts of `run` by the field `name`: equal values are one cluster.

    A prompt without a value is a cluster of its own. Raises InputError for a field that the run
    does not have, and if all of its prompts have one value.
    """
    of = cluster_codes(prompt_values(run, name)[: run.n_prompts])
    if of.max(initial=0) < 1:
        raise InputError(
            f"--cluster {name}: all {len(of)} prompts of run {run.id} have one value of it, and an "
            "error needs two clusters. Name another field, or leave --cluster out."
        )
    return Clusters(of, groups)
