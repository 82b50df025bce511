"""From what a user asks to a frozen plan: which texts, which model, which sites, which shards.

Cheap checks come first: the corpus is read and the prompts are chosen before a model loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import Final

import pyarrow as pa
import torch

from lpp.capture.batches import shard_boundaries
from lpp.capture.corpus import open_corpus
from lpp.capture.models import LoadedModel, ModelSpec, load_model, load_tokenizer
from lpp.capture.passages import Corpus, Passage, prompt_set_fingerprint
from lpp.capture.prompts import token_counter, tokenise
from lpp.capture.request import CaptureRequest, CorpusSpec
from lpp.capture.selection import Selection, select
from lpp.capture.sites import ModelSites, check_sites, find_sites
from lpp.capture.torch_backend import TorchBackend
from lpp.store.console import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.rows import prompts_sha256
from lpp.store.schedule import prefix_schedule

BATCH_BYTES: Final = 1 << 30
"""Most activations of one batch over all its sites: bounds what travels from a device at once."""

BATCH_TOKENS: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens of a batch by kind of device, where `BATCH_BYTES` allows them."""

ITEM_BYTES: Final = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with what it needs to run."""

    plan: Plan
    prompts: pa.Table
    model: torch.nn.Module
    backend: TorchBackend


def prepare(
    request: CaptureRequest, *, progress: Progress = SILENT, quiet: bool = True
) -> Prepared:
    """Choose the prompts, load the model, freeze the plan.

    progress: told of slow steps. quiet: keep the libraries' own warnings off stderr.

    Raises InputError for what the request gets wrong, MachineError for what the machine lacks.
    """
    corpus, passages = choose_passages(request.corpus, request.selection)
    loaded = load_model(request.model, progress=progress, quiet=quiet)
    if loaded.max_positions is not None and request.context > loaded.max_positions:
        raise InputError(
            f"--context {request.context} is beyond {request.model.id}, which has "
            f"{loaded.max_positions} positions. Choose --context {loaded.max_positions} or less.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if loaded.device.partition(":")[0] not in BATCH_TOKENS:
        raise MachineError(
            f"the model was put on {loaded.device}, where capture does not run. "
            "Repeat without --device-map, with --device cpu or cuda.",
            kind=ErrorKind.NO_DEVICE,
        )
    prompts = tokenise(passages, loaded.tokenizer, request.context)
    sites = find_sites(loaded.model)
    check_sites(loaded.model, sites)
    wanted = choose_sites(request.sites, sites.names)
    plan = make_plan(
        request=request,
        corpus=corpus,
        passages=passages,
        loaded=loaded,
        sites=sites,
        wanted=wanted,
        prompts=prompts,
    )
    backend = TorchBackend(loaded.model, sites, wanted, plan.stored_dtype)
    return Prepared(plan=plan, prompts=prompts, model=loaded.model, backend=backend)


def choose_passages(spec: CorpusSpec, selection: Selection) -> tuple[Corpus, list[Passage]]:
    """The corpus and the texts that the selection takes; no look at the model under test."""
    corpus = open_corpus(
        spec.name, revision=spec.revision, split=spec.split, text_field=spec.text_field
    )
    counter = None
    if selection.count_with is not None:
        counter = token_counter(load_tokenizer(selection.count_with))
    return corpus, select(corpus, selection, counter)


def choose_sites(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Sites that match any of `patterns`, in depth order.

    >>> choose_sites(["final", "block.*"], ["embed", "block.1", "final"])
    ('block.1', 'final')
    """
    patterns = ["*" if pattern == "all" else pattern for pattern in patterns]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"no site {pattern!r} in this model: it has embed, block.1 to "
                f"block.{len(names) - 2}, and final. Choose with --sites, such as "
                "--sites final,'block.*'.",
                kind=ErrorKind.NOT_FOUND,
            )
    return tuple(n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns))


def make_plan(
    *,
    request: CaptureRequest,
    corpus: Corpus,
    passages: Sequence[Passage],
    loaded: LoadedModel,
    sites: ModelSites,
    wanted: Sequence[str],
    prompts: pa.Table,
) -> Plan:
    """Freeze everything that could change a stored number."""
    specs = tuple(
        SiteSpec(
            name=name,
            convention="post_norm" if name == "final" and sites.final_norm else "residual",
            width=sites.width(name),
        )
        for name in wanted
    )
    token_bytes = sum(spec.width for spec in specs) * ITEM_BYTES[loaded.dtype]
    lengths = prompts["n_tokens"].to_pylist()
    device = loaded.device.partition(":")[0]  # which card of several changes no number
    return Plan(
        model=ModelInfo(
            id=loaded.id,
            source=loaded.source,
            revision=loaded.revision,
            weights=loaded.weights,
            architecture=loaded.architecture,
            n_parameters=loaded.n_parameters,
            n_blocks=loaded.n_blocks,
            hidden_size=loaded.hidden_size,
            logits_width=loaded.logits_width,
            untrained_seed=request.model.untrained_seed,
        ),
        tokenizer=TokenizerInfo(
            id=loaded.id,
            fingerprint=loaded.tokenizer_fingerprint,
            size=loaded.tokenizer_size,
        ),
        corpus=CorpusInfo(
            name=corpus.name,
            revision=corpus.revision,
            fingerprint=corpus.fingerprint,
            prompt_set=prompt_set_fingerprint(passages),
            selection={**request.selection.document(), "text": corpus.rule},
        ),
        prompts=PromptsInfo(
            count=prompts.num_rows, tokens=sum(lengths), sha256=prompts_sha256(prompts)
        ),
        context=request.context,
        prefixes=prefix_schedule(request.context),
        logit_positions=request.logit_positions,
        sites=specs,
        compute=ComputeInfo(
            backend="torch",
            device=device,
            dtype=loaded.dtype,
            attention=loaded.attention,
            batch_tokens=request.batch_tokens
            or default_batch_tokens(device, token_bytes, request.context),
            device_map=request.model.device_map,
            quantization=request.model.quantization,
            trust_remote_code=request.model.trust_remote_code,
            versions={name: version(name) for name in _computing(request.model)},
        ),
        stored_dtype=loaded.dtype,  # activations are stored as they were computed
        shards=shard_boundaries(lengths, token_bytes, request.shard_bytes),
    )


def _computing(spec: ModelSpec) -> list[str]:
    """Packages whose release could change a number."""
    spread = spec.device_map is not None or spec.quantization is not None
    return [
        *("lpp-engine", "torch", "transformers"),
        *(["accelerate"] if spread else []),
        *(["bitsandbytes"] if spec.quantization is not None else []),
    ]


def default_batch_tokens(device: str, token_bytes: int, context: int) -> int:
    """Tokens that run together: as many as keep the device busy, within `BATCH_BYTES`.

    At least one prompt, whatever its bytes: a prompt runs whole.
    """
    return max(context, min(BATCH_TOKENS[device], BATCH_BYTES // token_bytes))
