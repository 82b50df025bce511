"""The plan, the prompts and the rows of a run that another program collects, SPEC.md section 4.

What such a program does not say is an empty string, 0 or null in the plan.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.layout import ITEM_BYTES, NUMPY_DTYPE
from lpp.store.errors import InputError
from lpp.store.format.documents import validate_document
from lpp.store.format.plan import (
    INTEGERS,
    MAX_WIDTH,
    ComputeInfo,
    CorpusInfo,
    LogitPositions,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteDtype,
    SiteSpec,
    StoredDtype,
    TokenizerInfo,
    site_name_problem,
    validate_plan,
)
from lpp.store.format.prompt_columns import (
    FIELD_PREFIX,
    TOKEN_PREFIX,
    field_name_problem,
    token_columns,
)
from lpp.store.format.prompt_values import field_column, token_column, token_values
from lpp.store.format.quarantine import TextSetAside
from lpp.store.format.rows import prompts_sha256, prompts_table
from lpp.store.format.schedule import prefix_schedule, shard_boundaries
from lpp.store.settings.arguments import refused

GivenPrompt: TypeAlias = Sequence[int] | Mapping[str, Any]
"""Token ids; or a mapping with `input_ids`, `id`, `text` and further fields; a field with a value
for each token, such as `loss_mask`, is a list or an array."""

GivenSite: TypeAlias = int | tuple[int, SiteDtype] | SiteSpec
"""Columns of a site, and its dtype where it is not the run's; or the site as a plan has it, for
rows that are known to be those of `embed`, a block or `final`."""

MODEL_FIELDS: Final = tuple(f.name for f in fields(ModelInfo) if f.name not in ("source", "series"))
"""What may be said of a model."""

_IDS: Final = "input_ids"

_COLUMNS: Final = ("id", "text")
"""Fields that are columns of the format."""


def given_model(model: "str | Mapping[str, Any] | ModelInfo") -> ModelInfo:
    """A model by its name, or by `MODEL_FIELDS` of which `id` is needed."""
    if isinstance(model, ModelInfo):
        return model
    if not isinstance(model, (str, Mapping)):
        raise refused("model", model, "a name, or a mapping with an id")
    known = {"id": model} if isinstance(model, str) else dict(model)
    unknown = {*known} - {*MODEL_FIELDS}
    if unknown or not known.get("id"):
        wrong = f"has no {', '.join(sorted(unknown))}" if unknown else "needs a name, id"
        raise InputError(f"model {wrong}; its fields are {', '.join(MODEL_FIELDS)}.")
    empty: dict[str, Any] = dict.fromkeys(("weights", "architecture"), "")
    empty |= dict.fromkeys(("n_parameters", "n_blocks", "hidden_size", "logits_width"), 0)
    return ModelInfo(**{"source": "given", "revision": None, **empty, **known})


def given_tokenizer(tokenizer: Any) -> TokenizerInfo:
    """A tokenizer by its name, or as transformers has it."""
    if isinstance(tokenizer, str):
        return TokenizerInfo(id=tokenizer, fingerprint="", size=0)
    size = 0 if tokenizer is None else len(tokenizer)
    name = str(getattr(tokenizer, "name_or_path", ""))
    return TokenizerInfo(id=name, fingerprint="", size=size)


def given_sites(sites: Mapping[str, GivenSite], dtype: StoredDtype) -> tuple[SiteSpec, ...]:
    """The sites in the order given, which is that of depth. dtype: of the run."""
    specs = []
    for name, site in sites.items():
        if isinstance(site, SiteSpec):
            specs.append(site)
            continue
        width, own = site if isinstance(site, tuple) else (site, dtype)
        problem = site_name_problem(name)
        if not isinstance(width, int) or not 1 <= width <= MAX_WIDTH:
            problem = f"has {width!r} columns, should be 1 to {MAX_WIDTH}"
        elif own not in NUMPY_DTYPE:
            problem = f"is of {own}; there are {', '.join(NUMPY_DTYPE)}"
        if problem:
            raise InputError(f"site {name!r} {problem}.")
        stored = None if own == dtype else own
        specs.append(SiteSpec(name=name, convention="given", width=width, dtype=stored))
    if not specs:
        raise InputError("sites should name at least one site and its columns.")
    return tuple(specs)


def given_dtype(plan: Plan, site: SiteSpec) -> SiteDtype:
    """The dtype in which rows of `site` are given: those of 8 bits are rounded as they are packed,
    by the writer.
    """
    dtype = plan.dtype_of(site)
    return plan.stored_dtype if dtype == "float8_e4m3" else dtype


def given_prompts(
    prompts: Iterable[GivenPrompt], vocabulary: int
) -> tuple[pa.Table, list[TextSetAside]]:
    """The table of prompts with `id`, `text`, `field.<name>` and `token.<name>` as far as given;
    and those that became no prompt: empty ones, and those with ids beyond the vocabulary.

    vocabulary: ids are below it; 0 if unknown. Column `source_row` is the place in `prompts`.
    """
    rows: list[tuple[int, npt.NDArray[np.int32], Mapping[str, Any]]] = []
    aside = []
    for number, given in enumerate(prompts):
        record = given if isinstance(given, Mapping) else {_IDS: given}
        ids = _token_ids(number, record.get(_IDS))
        if not len(ids):
            aside.append(TextSetAside(source_row=number, reason="no_tokens", detail="no ids"))
            continue
        outside = np.flatnonzero((ids < 0) | (ids >= (vocabulary or 1 << 31)))
        if len(outside):
            detail = f"id {ids[outside[0]]} at position {outside[0]}, ids are 0 to "
            detail += f"{(vocabulary or 1 << 31) - 1}"
            aside.append(TextSetAside(source_row=number, reason="bad_tokens", detail=detail))
            continue
        rows.append((number, ids.astype(np.int32), record))
    if not rows:
        why = f"; prompts[{aside[0].source_row}]: {aside[0].detail}" if aside else ""
        raise InputError(f"prompts: none of {len(aside)} can be used{why}.")
    numbers = [number for number, _, _ in rows]
    lengths = [len(ids) for _, ids, _ in rows]
    table = prompts_table(numbers, [ids for _, ids, _ in rows], [False] * len(rows))
    places = [f"prompts[{number}]" for number in numbers]
    for name in dict.fromkeys(name for _, _, record in rows for name in record if name != _IDS):
        if problem := field_name_problem(name):
            raise InputError(f"prompts: field {name[:48]!r}: {problem}.")
        values = [record.get(name) for _, _, record in rows]
        if any(map(_is_by_token, values)):
            each = zip(values, lengths, places, strict=True)
            lists = [_by_token(name, *of_prompt) for of_prompt in each]
            table = table.append_column(TOKEN_PREFIX + name, token_column(name, lists))
        else:
            column = name if name in _COLUMNS else FIELD_PREFIX + name
            table = table.append_column(column, field_column(name, values, places))
    return table, aside


def given_plan(
    prompts: pa.Table,
    sites: tuple[SiteSpec, ...],
    *,
    model: ModelInfo,
    tokenizer: TokenizerInfo,
    corpus: str,
    collector: str,
    versions: Mapping[str, str],
    dtype: StoredDtype,
    logit_positions: LogitPositions,
    shard_bytes: int,
) -> Plan:
    """The plan of a run of rows that a program gives. prompts: as of `given_prompts`.

    InputError for values of other types than a plan has.
    """
    lengths = prompts["n_tokens"].to_pylist()
    digest = prompts_sha256(prompts)
    token_bytes = sum(site.width * ITEM_BYTES[site.dtype or dtype] for site in sites)
    plan = Plan(
        model=model,
        tokenizer=tokenizer,
        corpus=CorpusInfo(
            name=corpus, revision=None, fingerprint=digest, prompt_set=digest, selection={}
        ),
        prompts=PromptsInfo(
            count=len(lengths),
            tokens=sum(lengths),
            sha256=digest,
            token_columns=token_columns(prompts.schema),
        ),
        context=max(lengths),
        prefixes=prefix_schedule(max(lengths)),
        logit_positions=logit_positions,
        sites=sites,
        compute=ComputeInfo(
            backend=collector,
            device="",
            dtype="",
            attention="",
            batch_tokens=0,
            device_map=None,
            quantization=None,
            trust_remote_code=False,
            versions=dict(versions),
        ),
        stored_dtype=dtype,
        shards=shard_boundaries(lengths, token_bytes, shard_bytes),
    )
    if problems := validate_document(Plan, plan.document) or validate_plan(plan):
        raise InputError("; ".join(problems) + ".")
    known = [site.name for site in sites if site.convention != "given"]
    blocks = [int(name.split(".")[1]) for name in known if "." in name]
    if known and plan.model.n_blocks < max([1, *blocks]):
        raise InputError(
            f"model.n_blocks is {plan.model.n_blocks}, and sites are {', '.join(known)}."
        )
    return plan


def given_rows(values: Any, dtype: SiteDtype, shape: tuple[int, int]) -> npt.NDArray[Any]:
    """`values` as (n, width) rows of `dtype`, without a copy where there can be: an array, or a
    tensor of any device. Dimensions after the first are joined.

    Floats must be of `dtype`, bfloat16 as such or as its bits in uint16; integers of any type that
    fit. ValueError says what they are and should be.
    """
    rows, name = _array(values)
    expected = f"should be {dtype} {shape}"
    if rows.ndim and rows.size == shape[0] * shape[1] and len(rows) == shape[0]:
        rows = rows.reshape(shape)
    if rows.shape != shape:
        raise ValueError(f"rows are {name} {rows.shape}, {expected}")
    if dtype in INTEGERS:
        bounds = np.iinfo(dtype)
        if name == "bfloat16" or rows.dtype.kind not in "iu":
            raise ValueError(f"rows are {name}, {expected}")
        if not bounds.min <= rows.min() <= rows.max() <= bounds.max:
            raise ValueError(f"rows hold {rows.min()} to {rows.max()}, {expected}")
    elif name != dtype and (name, dtype) != ("uint16", "bfloat16"):
        raise ValueError(f"rows are {name}, {expected}: convert them, or change the site's dtype")
    return rows


def _array(values: Any) -> tuple[npt.NDArray[Any], str]:
    """An array of `values` and the name of their type: NumPy has none for bfloat16."""
    if hasattr(values, "detach"):  # a torch tensor, whose package is not imported here
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            bits = values.view(values.new_empty(0).short().dtype)
            return bits.numpy().view(np.uint16), "bfloat16"
    rows = np.asarray(values)
    name = rows.dtype.name
    return (rows.view(np.uint16), name) if name == "bfloat16" else (rows, name)


def _token_ids(number: int, ids: Any) -> npt.NDArray[np.int64]:
    try:
        array, _ = _array(ids)
        if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
            return array.astype(np.int64)
    except ValueError:  # lists of several lengths
        pass
    raise InputError(
        f"prompts[{number}]: {str(ids)[:60]!r} is no list of token ids. Give the ids, or a mapping "
        f"with {_IDS!r}."
    )


def _is_by_token(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _by_token(name: str, given: Any, tokens: int, place: str) -> npt.NDArray[Any] | None:
    if given is None:
        return None
    try:
        return token_values(name, given, tokens)
    except ValueError as error:
        raise InputError(f"{place}: {error}.") from None
