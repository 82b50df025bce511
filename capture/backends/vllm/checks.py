"""Checks of a loaded model inside vLLM, on a few tokens."""

import json
import logging
from typing import Final

import numpy as np
import numpy.typing as npt

from lpp.capture.backends.vllm.engine import PROBE_TOKENS, VllmEngine
from lpp.capture.backends.vllm.installed import silenced, vllm_version
from lpp.capture.models.model_files import transformers_library
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.sites import Sites
from lpp.capture.plan.backend import Backend, Batch, Outputs
from lpp.store.errors import ErrorKind, InputError

_log = logging.getLogger("lpp.capture")

Floats = npt.NDArray[np.float32]

_ROUNDING: Final = 16
"""Units of the dtype's epsilon by which two kernels of one computation may differ."""

ROOM: Final = 64
"""Tolerance between a site in vLLM and in transformers: units of epsilon for each site passed.

Measured on SmolLM2 (30 blocks) and on tiny models of Qwen2 (3 and 24 blocks) and Gemma 3, on a CPU:
at block 3 at most 5 units in float32 and 1.5 in bfloat16. Tiny models stay at 8 and 3 to the end.
SmolLM2 reaches 91 and 14 at block 12, where one block makes a token's state fifty times larger and
its rounding with it, and 179 and 25 at block 30."""

MOST_ROOM: Final = 0.5
"""Largest tolerance, as a fraction of a row's size. A site that is read one block off differs in
float32 by 0.003 or more, and by 0.6 to 1 in every dtype at the first blocks of the models above;
but in bfloat16 later blocks may change a state by less than rounding does."""

EPSILON: Final = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def check_class(model: Model, *, beside: bool) -> None:
    """Refuse what cannot run where vLLM has no code of its own and runs a class of transformers.

    beside: whether transformers runs the model in this process too. vLLM replaces methods of the
    class for the whole process. A model that reads images too needs a tokenizer for its processor,
    which capture does not load in vLLM. Raises InputError(UNSUPPORTED_MODEL).
    """
    with silenced():  # its logger is not configured yet
        from vllm.model_executor.models.registry import ModelRegistry

    # a folder may spell a class otherwise than transformers does (PhiMoE, Phimoe); vLLM reads this
    config = json.loads((model.folder / "config.json").read_text())
    name = (config.get("architectures") or [model.info.architecture])[0]
    served_by = getattr(ModelRegistry.models.get(name), "class_name", "Transformers")
    images = transformers_library().AutoModelForImageTextToText._model_mapping._model_mapping
    if not served_by.startswith("Transformers"):
        return
    if model.info.architecture in images.values():
        raise InputError(
            f"vLLM {vllm_version()} has no class of its own for {name}, which reads images too. "
            f"Capture {model.info.id} with --backend torch.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    if beside:
        raise InputError(
            f"vLLM {vllm_version()} has no class of its own for {name}, and changes that of "
            "transformers, so neither --check-sites nor --backend vllm+torch can run it. Capture "
            "it with --backend vllm and with --backend torch, and compare with lpp-analyze diff.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )


def probe_sites(engine: VllmEngine, model: Model) -> tuple[Sites, str]:
    """Run a few tokens and compare what passes through the blocks with the model.

    Checked: the final norm of block.B is `final`; the logits are as wide as the configuration says.
    Returns the sites, and the names of vLLM's attention kernels. Raises
    InputError(UNSUPPORTED_MODEL).
    """
    info = model.info
    known = engine.call("lpp_watch", info.n_blocks, info.hidden_size)
    list(engine.run([probe_tokens(model).tolist()]))
    seen = engine.call("lpp_watched")
    if seen["difference"] > _ROUNDING:
        raise unmapped(model, "the norm of its last block's output is not its final state")
    if seen["logits_width"] != info.logits_width:
        raise unmapped(
            model, f"its logits have {seen['logits_width']} columns there, not {info.logits_width}"
        )
    by_shards: bool = engine.call("lpp_unembed", info.logits_width)
    if engine.workers_are_processes and not by_shards:
        _log.warning(
            "%s: the columns of its unembedding cannot be told apart inside vLLM, so its logits "
            "are gathered on the first rank, which is slower",
            info.id,
        )
    return seen["sites"], "+".join(known["attention"]) or "none"


def check_causal(backend: Backend) -> None:
    """Run the probe with two endings; rows before the ending must be equal.

    The passes have the same shapes, so whatever does not depend on the last token is computed
    alike. Each column is compared relative to its own size: a few are a thousand times larger than
    the rest. Raises InputError(UNSUPPORTED_MODEL).
    """
    model = backend.model
    ids = probe_tokens(model)
    other = ids.copy()
    other[-1] = ids[0]
    first, second = states(backend, ids), states(backend, other)
    for site, rows in first.items():
        before, size = rows[:-1], np.abs(rows[:-1]).max(axis=0)
        changed = np.abs(before - second[site][:-1])[:, size > 0] / size[size > 0]
        if changed.size and changed.mean() > 4 * EPSILON[model.dtype]:
            raise unmapped(model, f"a later token changes {site}: its attention is not causal")


def check_states(ours: Backend, theirs: Backend) -> None:
    """Compare every site of two backends on the probe.

    Raises InputError(UNSUPPORTED_MODEL) that names the first site that differs.
    """
    model = ours.model
    if ours.sites != theirs.sites:
        raise unmapped(model, f"its sites are {ours.sites}, in transformers {theirs.sites}")
    ids = probe_tokens(model)
    our_rows, their_rows = states(ours, ids), states(theirs, ids)
    for depth, site in enumerate(ours.sites.names):
        room = min(MOST_ROOM, ROOM * EPSILON[model.dtype] * (1 + depth))
        difference = relative_difference(our_rows[site], their_rows[site])
        if difference > room:
            raise unmapped(
                model,
                f"{site} is not what transformers computes there: its rows differ by "
                f"{difference:.1%} of their size, where rounding in {model.dtype} explains "
                f"{room:.1%}",
            )


def relative_difference(mine: Floats, reference: Floats) -> float:
    """Median over rows of the root mean square of the difference, divided by that of the reference.

    The median, because the first tokens' states are a hundred times larger than the others' and
    would hide them. Infinite if the two have non-finite values in different places.
    """
    finite = np.isfinite(reference)
    if not np.array_equal(np.isfinite(mine), finite):
        return float("inf")
    mine, reference = np.where(finite, mine, 0), np.where(finite, reference, 0)
    difference = np.square(mine - reference, dtype=np.float64).sum(axis=1)
    size = np.square(reference, dtype=np.float64).sum(axis=1)
    return float(np.median(np.sqrt(difference / np.maximum(size, 1e-30))))


def probe_tokens(model: Model) -> npt.NDArray[np.int32]:
    """(PROBE_TOKENS,) token ids to try a model on."""
    return (np.arange(3, 3 + PROBE_TOKENS) % model.info.logits_width).astype(np.int32)


def states(backend: Backend, ids: npt.NDArray[np.int32]) -> dict[str, Floats]:
    """Site -> (T, width) rows of one prompt."""
    sites, tokens = backend.sites, len(ids)
    widths = {site: sites.width(site) for site in sites.names}
    memory = backend.allocate(tokens * sum(widths.values()) * 4).view(np.float32)
    starts = np.cumsum([0, *(tokens * width for width in widths.values())])
    hidden = {
        site: memory[start : start + tokens * width].reshape(tokens, width)
        for (site, width), start in zip(widths.items(), starts, strict=False)
    }
    batch = Batch(
        shard=0,
        prompt_ids=(0,),
        lengths=(tokens,),
        token_ids=ids,
        logit_rows=np.zeros(1, np.int64),
        hidden=hidden,
    )
    list(backend.capture([batch], Outputs(sites=sites.names, dtype="float32")))
    return hidden


def unmapped(model: Model, why: str) -> InputError:
    """The error for a model whose states are not understood inside vLLM."""
    return InputError(
        f"{model.info.id} cannot be captured inside vLLM: {why}. Capture it with --backend torch.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )
