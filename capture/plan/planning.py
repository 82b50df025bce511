"""Turn a request into a frozen plan: sites, batches, shards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import pyarrow as pa

from lpp.capture.corpus.passages import Corpus, Passage, prompt_set_fingerprint
from lpp.capture.models.device import kind_of
from lpp.capture.models.spec import Model
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import (
    BATCH_BYTES,
    ROUTER,
    BackendName,
    CaptureRequest,
)
from lpp.store.arrays.layout import ITEM_BYTES
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.documents import canonical_json
from lpp.store.format.plan import (
    ComputeInfo,
    ContinuationInfo,
    CorpusInfo,
    Plan,
    PromptsInfo,
    SiteDtype,
    SiteSpec,
    TemplateInfo,
)
from lpp.store.format.prompt_columns import token_columns
from lpp.store.format.rows import branches_sha256, prompts_sha256
from lpp.store.format.schedule import prefix_schedule, shard_boundaries


def choose_sites(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Sites that match any of `patterns`, in depth order. Only a pattern that begins with `router`
    matches those of routers.

    >>> choose_sites(["final", "block.*"], ["embed", "router.1", "block.1", "final"])
    ('block.1', 'final')
    >>> choose_sites(["final", "routers"], ["embed", "router.1", "block.1", "final"])
    ('router.1', 'final')
    """
    chosen = set()
    for pattern in patterns:
        of_routers = pattern.startswith(ROUTER)
        among = [name for name in names if name.startswith(ROUTER) == of_routers]
        full = "*" if pattern in ("all", "routers") else pattern
        matches = [name for name in among if fnmatchcase(name, full)]
        if not matches:
            held = f"embed, block.1 to {names[-2]}, and final"
            if of_routers:
                held = ", ".join(among) or "no router whose choices can be read"
            raise InputError(
                f"no site {pattern!r} in this model: it has {held}. Choose with --sites, such as "
                "--sites final,'block.*'.",
                kind=ErrorKind.NOT_FOUND,
            )
        chosen.update(matches)
    return tuple(name for name in names if name in chosen)


def make_plan(
    *,
    request: CaptureRequest,
    corpus: Corpus,
    passages: Sequence[Passage],
    backend: Backend,
    prompts: pa.Table,
    continuation: ContinuationInfo | None = None,
    template: TemplateInfo | None = None,
) -> Plan:
    """Freeze everything that could change a stored number.

    continuation: how the model wrote the last tokens of each prompt; None if it wrote none.
    template: that of conversations; None without any.
    """
    dtype, specs = backend.model.dtype, site_specs(request, backend)
    token_bytes = sum(spec.width for spec in specs) * ITEM_BYTES[dtype]
    lengths = prompts["n_tokens"].to_pylist()
    branches = branches_sha256(prompts)
    compute = compute_of(backend, branches=branches is not None)
    if not compute.batch_tokens:
        tokens = default_batch_tokens(compute.device, token_bytes, request.longest)
        compute = replace(compute, batch_tokens=tokens)
    prefixes = prefix_schedule(request.longest)
    size = shard_bytes(request, compute.device)
    return Plan(
        model=backend.model.info,
        tokenizer=backend.model.tokenizer_info,
        corpus=CorpusInfo(
            name=corpus.name,
            revision=corpus.revision,
            fingerprint=corpus.fingerprint,
            prompt_set=prompt_set_fingerprint(passages),
            selection={**request.selection.document(), "text": corpus.rule},
            template=template,
        ),
        prompts=PromptsInfo(
            count=prompts.num_rows,
            tokens=sum(lengths),
            sha256=prompts_sha256(prompts),
            branches=branches,
            token_columns=token_columns(prompts.schema),
        ),
        context=request.longest,
        prefixes=prefixes,
        logit_positions=request.logit_positions,
        sites=specs,
        compute=compute,
        stored_dtype=dtype,  # activations are stored as computed, but for sites with their own
        shards=shard_boundaries(lengths, token_bytes, size),
        continuation=continuation,
        name=request.name or "",
    )


def compute_of(backend: Backend, *, branches: bool) -> ComputeInfo:
    """How `backend` runs a plan. branches: whether prompts branch off others."""
    if not branches:
        return backend.compute
    return replace(backend.compute, beginnings="reused" if backend.reuses else "repeated")


def shard_bytes(request: CaptureRequest, device: str) -> int:
    """Bytes of the rows of a shard: the same on every machine, so that workers share a plan."""
    return request.shard_bytes or kind_of(device).shard_bytes


def site_specs(request: CaptureRequest, backend: Backend) -> tuple[SiteSpec, ...]:
    """The sites that `request` chooses of a model, with their number types. InputError for a name
    that no site has, or no chosen one.
    """
    sites = backend.sites
    chosen = choose_sites(request.sites, sites.names_with_routers)
    routers = {spec.name: spec for both in sites.routers.values() for spec in both}
    dtypes: dict[str, SiteDtype | None] = dict.fromkeys(n for n in chosen if n not in routers)
    for pattern, dtype in request.stored_dtype.items():
        matches = [name for name in dtypes if pattern == "all" or fnmatchcase(name, pattern)]
        if not matches:
            raise InputError(
                f"--stored-dtype {pattern}={dtype or 'auto'}: no site of that name is captured, of "
                f"{', '.join(dtypes) or 'routers'}. Leave it out, or add the site to --sites.",
                kind=ErrorKind.NOT_FOUND,
            )
        dtypes |= dict.fromkeys(matches, dtype)
    return tuple(
        routers.get(name)
        or SiteSpec(
            name=name,
            convention="post_norm" if name == "final" and sites.final_norm else "residual",
            width=sites.width(name),
            dtype=dtypes[name],
            streams=1 if name == "final" else sites.streams,
        )
        for name in chosen
    )


def compute_info(
    request: CaptureRequest,
    model: Model,
    *,
    backend: BackendName,
    device: str,
    attention: str,
    device_map: str | None,
    versions: Mapping[str, str],
) -> ComputeInfo:
    """How the model runs, as a plan records it.

    device: its kind, without the index: which of several cards runs the model changes no number.
    versions: releases of packages that could change a number.
    """
    options = request.engine_options.items()
    return ComputeInfo(
        backend=backend,
        device=device,
        dtype=model.dtype,
        attention=attention,
        batch_tokens=request.batch_tokens or 0,
        device_map=device_map,
        quantization=request.model.quantization,
        trust_remote_code=request.model.trust_remote_code,
        versions=versions,
        engine_options={name: canonical_json(value).decode() for name, value in options},
    )


def check_context(model: Model, request: CaptureRequest) -> None:
    """Raise InputError if prompts may be longer than the model has positions."""
    limit, written = model.max_positions, request.continuation
    if limit is None or request.longest <= limit:
        return
    requested, helps = f"--context {request.context} is", f"--context {limit} or less"
    if written is not None:
        requested = f"--context {request.context} and --continue {written.tokens} are together"
        helps = f"less of either, {limit} tokens together at most"
    raise InputError(
        f"{requested} beyond {model.info.id}, which has {limit} positions. Choose {helps}."
    )


def default_batch_tokens(device: str, token_bytes: int, context: int) -> int:
    """Tokens of a batch: enough to keep the device busy, within `BATCH_BYTES`.

    At least `context` tokens, since a prompt is never divided.
    """
    return max(context, min(kind_of(device).batch_tokens, BATCH_BYTES // token_bytes))
