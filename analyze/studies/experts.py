"""How evenly the routers of a mixture of experts load their experts: the table `expert_load`."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from lpp.analyze.numerics.jackknife import error_names, jackknife
from lpp.analyze.quantities.quantity import FROM_0
from lpp.analyze.questions import Selection
from lpp.analyze.runs.cells import GROUPS, Cell, Integers, n_tokens
from lpp.analyze.runs.groups import group_of
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.select import router_sites


def expert_loads(view: RunView, of: Selection) -> Iterator[dict[str, Any]]:
    """Rows of `EXPERT_LOAD`: each router of a run over the whole of each context, by depth.

    Errors leave groups of prompts out. Reads the ids once for each setting. Raises FormatError for
    altered bytes.
    """
    settings = product(view.contexts(of.contexts), view.sizes(of.prompts), sorted({*of.skip_first}))
    cells = [Cell(size, context, first_position=first) for context, size, first in settings]
    keys = [(s, c) for c in cells for s in router_sites(view.run) if n_tokens(view.lengths, c)]
    counts = [_counts(view, *key) for key in keys]
    n_experts = max(map(len, counts), default=0)
    for (site, cell), of_site in zip(keys, counts, strict=True):
        of_groups = np.pad(of_site, ((0, n_experts - len(of_site)), (0, 0)))
        whole = of_groups.sum(axis=1, keepdims=True)
        each = np.hstack([whole, whole - of_groups])  # of all prompts, and without each group
        with np.errstate(invalid="ignore"):  # one group may have every token
            loads = each / each.sum(axis=0)
        imbalance, *parts = loads.std(axis=0) * n_experts
        columns = "load_imbalance", *error_names("load_imbalance")
        yield dict(zip(columns, jackknife(imbalance, parts, FROM_0), strict=False)) | {
            **{"run": view.run.id, "site": site, "depth": view.run.plan.depth_of(site)},
            **{"context": cell.prefix, "n_tokens": n_tokens(view.lengths, cell)},
            **{"n_prompts": cell.n_prompts, "first_position": cell.first_position},
            **{"n_experts": n_experts, "n_unused": int((whole == 0).sum())},
            **{"largest_load": loads[:, 0].max(), "loads": loads[:, 0].tolist()},
        }


def _counts(view: RunView, site: str, cell: Cell) -> Integers:
    """How often each expert, up to the largest id, is chosen in each group of prompts: (E, G)."""
    group = group_of(GROUPS, cell.n_prompts)
    counts = np.zeros((1 << 16, int(group.max()) + 1), np.int64)
    for block in view.run.blocks(site, prompts=cell.n_prompts, dtype="stored"):
        inside = (block.position >= cell.first_position) & (block.position < cell.prefix)
        first = block.values[inside].astype(np.int64) * counts.shape[1]
        chosen = first + group[block.prompt_id[inside], None]
        counts += np.bincount(chosen.ravel(), minlength=counts.size).reshape(counts.shape)
    return counts[: int(counts.nonzero()[0].max()) + 1].copy()
