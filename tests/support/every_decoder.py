"""Each causal class of transformers: whether `lpp-capture` accepts it, and whether it is right.

Checks here use the modules that `find_sites` found, and none of the code that reads them.

    python tests/support/every_decoder.py [MODEL_TYPE ...]   write capture/models/known_models.csv
"""

import csv
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Final

import torch
import transformers
from causal_classes import MODEL_CLASSES, TOKENS, VOCABULARY, NotBuiltError, small_model

from lpp.capture.models.known import TABLE, known_models
from lpp.capture.models.structure.find_sites import check_sites, find_sites
from lpp.capture.models.structure.sites import SiteModules
from lpp.capture.models.structure.unembedding import find_unembedding
from lpp.store.errors import InputError

FIELDS: Final = ("model_type", "class", "status", "error_below", "why", "transformers")

BOUNDS: Final = (1e-5, 1e-4, 1e-3)
"""Largest relative error of a row of a site: the first that a class passes with room to spare.

Past half of the second, only for a class whose float64 errors are below 1e-6: the rest is rounding.
"""

States = dict[str, torch.Tensor]


def measured(model_type: str, room: float = 2.0) -> dict[str, str]:
    """The row of a class: built, looked at by our code, and checked without it.

    room: how many times the largest error must fit into its bound. Errors differ between
    processors: a table written with room holds on others without.
    """
    row = dict.fromkeys(FIELDS, "") | {
        "model_type": model_type,
        "class": MODEL_CLASSES[model_type],
        "transformers": transformers.__version__,
    }
    try:
        model = small_model(model_type)
    except NotBuiltError as error:
        return row | {"status": "not built", "why": str(error)}
    try:
        modules = find_sites(model)
        check_sites(model, modules)
        unembedding = find_unembedding(model, modules)
    except InputError as error:
        why = str(error).partition("cannot be captured: ")[2].partition(". Its modules:")[0]
        return row | {"status": "refused", "why": why or str(error)}
    errors = checked(model, modules, unembedding.logits)
    worst = max(errors, key=errors.__getitem__)
    bound = next((bound for bound in BOUNDS if errors[worst] * room < bound), None)
    if bound == BOUNDS[-1]:
        exact = checked(model.double(), modules, unembedding.logits)
        bound = bound if max(exact.values()) < 1e-6 else None
    if bound is None:
        return row | {"status": "wrong", "why": f"{worst}: {errors[worst]:.1g}"}
    return row | {"status": "right", "error_below": f"{bound:g}"}


@torch.no_grad()
def checked(
    model: Any, modules: SiteModules, logits: Callable[[torch.Tensor, torch.Tensor], None]
) -> dict[str, float]:
    """By check: the largest error of a row, relative to that row's largest value.

    logits: writes those of rows of `final` (n, width) into its second argument (n, V).
    """
    ids = torch.randperm(VOCABULARY - 3, generator=torch.Generator().manual_seed(5))[:TOKENS] + 3
    whole, given, reported = _run(model, modules, ids[None])
    names = list(whole)  # embed, block.1, ..., block.B, final, logits
    last = "final" if reported[-1].shape == whole["final"].shape else names[-3]
    errors = {
        "reported": min(  # Mamba reports the last block's output too, and not the first one's input
            max(_apart(whole[name], state) for name, state in zip(kept, reported, strict=True))
            for kept in ((*names[:-3], last), names[1:-1])
        ),
        "continuity": max(
            (_apart(given[k], whole[names[k]]) for k in range(1, len(given))), default=0.0
        ),
    }
    made = torch.empty_like(whole["logits"], dtype=whole["final"].dtype)
    logits(whole["final"][0], made[0])
    errors["logits"] = _apart(made, whole["logits"])

    lengths = (5, 17, TOKENS)
    batch = torch.full((3, TOKENS), 7)
    rows = [ids[:5].flip(0), ids[20 : 20 + 17], ids]
    for row, prompt in zip(batch, rows, strict=True):
        row[: len(prompt)] = prompt
    together, _, _ = _run(model, modules, batch)
    errors["padding"] = 0.0
    for k, prompt in enumerate(rows):
        alone, _, _ = _run(model, modules, prompt[None])
        for name in names:
            apart = _apart(together[name][k, : lengths[k]], alone[name][0])
            errors["padding"] = max(errors["padding"], apart)

    prefix, _, _ = _run(model, modules, ids[None, :19])
    errors["prefix"] = max(_apart(whole[name][:, :19], prefix[name]) for name in names)

    changed = ids.clone()
    changed[23] = ids[0]
    other, _, _ = _run(model, modules, changed[None])
    errors["later token"] = max(_apart(other[name][:, :23], whole[name][:, :23]) for name in names)
    if _apart(other["final"][:, 23:], whole["final"][:, 23:]) < 1e-3:
        errors["later token"] = float("inf")  # the states do not depend on the tokens
    return errors


def _run(
    model: Any, modules: SiteModules, ids: torch.Tensor
) -> tuple[States, list[torch.Tensor], tuple[torch.Tensor, ...]]:
    """States by site, with the logits; the input of each block; what the model reports."""
    states: States = {}
    given: list[torch.Tensor] = []
    with _watched(modules, states, given):
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    given = [_row_of_streams(state, ids) for state in given]
    states = {name: _row_of_streams(state, ids) for name, state in states.items()}
    reported = tuple(_row_of_streams(state, ids) for state in output.hidden_states)
    return {"embed": given[0], **states, "logits": output.logits}, given, reported


def _row_of_streams(state: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(B, T, n d) of n residual streams, which a family may stack before or behind the tokens."""
    if state.ndim == 4 and state.shape[1:3] == ids.shape:
        state = torch.stack([*state], dim=2)
    return state.reshape(*ids.shape, -1)


@contextmanager
def _watched(modules: SiteModules, states: States, given: list[torch.Tensor]) -> Iterator[None]:
    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append((args[0] if args else kwargs["hidden_states"]).clone())

    def after(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            states[name] = (output if isinstance(output, torch.Tensor) else output[0]).clone()

        return hook

    handles = [modules.trunk.register_forward_hook(after("final"))]
    for k, block in enumerate(modules.blocks, 1):
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.register_forward_hook(after(f"block.{k}")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _apart(made: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of a row, relative to its largest finite value; not finite: infinite."""
    if made.shape != expected.shape or not torch.equal(made.isfinite(), expected.isfinite()):
        return float("inf")
    finite = expected.isfinite()
    difference = (made - expected).where(finite, 0.0).abs().amax(-1)
    size = expected.where(finite, 0.0).abs().amax(-1)
    return float((difference / size.clamp_min(1e-6)).max())


def known() -> dict[str, dict[str, str]]:
    """The committed table, by model_type."""
    return {row["model_type"]: row for row in known_models()}


def write(rows: list[dict[str, str]]) -> None:
    """Write the table, in order of model_type."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: row["model_type"]))


def quiet() -> None:
    """One thread, which is fastest for tiny models, and no advice from transformers."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity(logging.ERROR)


if __name__ == "__main__":
    rows = known() if sys.argv[1:] else {}
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=quiet) as processes:
        for row in processes.map(measured, sys.argv[1:] or MODEL_CLASSES):
            rows[row["model_type"]] = row
            print(*(row[field] for field in FIELDS[:-1]), sep=" | ", flush=True)
    write([*rows.values()])
