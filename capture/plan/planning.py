"""From what a user asks to a frozen plan: which texts, which model, which sites, which shards.

Cheap checks come first: the corpus is read and the prompts are chosen before a model loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import pyarrow as pa

from lpp.capture.backends.opened import BATCH_TOKENS, OpenedModel, open_model
from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Corpus, Passage, prompt_set_fingerprint
from lpp.capture.corpus.prompts import token_counter, tokenise
from lpp.capture.corpus.selection import Selection, select
from lpp.capture.models.load import load_tokenizer
from lpp.capture.models.spec import ModelDescription
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.batches import kept_boundaries
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store.arrays.layout import ITEM_BYTES
from lpp.store.arrays.moments import moments_bytes
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.commands.signals import check_requests
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.documents import canonical_json
from lpp.store.format.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.rows import prompts_sha256
from lpp.store.format.schedule import moment_band_ends, prefix_schedule

BATCH_BYTES: Final = 1 << 30
"""Most activations of one batch over all its sites: bounds what travels from a device at once."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with what it needs to run. Close it to give the model's memory back."""

    plan: Plan
    prompts: pa.Table
    opened: OpenedModel
    backend: Backend
    set_aside: pa.Table
    """Texts of the corpus that became no prompt, `lpp.store.format.quarantine.TEXTS_SCHEMA`."""

    def close(self) -> None:
        """Nothing runs on the model any more."""
        self.opened.close()


def prepare(
    request: CaptureRequest, *, progress: Progress = SILENT, quiet: bool = True
) -> Prepared:
    """Choose the prompts, load the model, freeze the plan.

    progress: told of slow steps. quiet: keep the libraries' own warnings off stderr.

    Raises InputError for what the request gets wrong, MachineError for what the machine lacks.
    """
    corpus, passages = choose_passages(request.corpus, request.selection)
    opened = open_model(request, progress=progress, quiet=quiet)
    try:
        check_requests()  # vLLM's start drops an interrupt at some moments
        refused = corpus.refused
        prompts = tokenise(passages, opened.described.tokenizer, request.context, refused)
        passages = [passage for passage in passages if passage.source_row not in refused]
        plan = make_plan(
            request=request, corpus=corpus, passages=passages, opened=opened, prompts=prompts
        )
        backend = opened.backend(plan.site_names, plan.stored_dtype, plan.keep)
    except BaseException:
        opened.close()
        raise
    return Prepared(
        plan=plan, prompts=prompts, opened=opened, backend=backend, set_aside=refused.table()
    )


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
    opened: OpenedModel,
    prompts: pa.Table,
) -> Plan:
    """Freeze everything that could change a stored number."""
    loaded, specs = opened.described, site_specs(request, opened)
    token_bytes = sum(spec.width for spec in specs) * ITEM_BYTES[loaded.dtype]
    lengths = prompts["n_tokens"].to_pylist()
    batch_tokens = request.batch_tokens or default_batch_tokens(
        opened.device, token_bytes, request.context
    )
    prefixes = prefix_schedule(request.context)
    ends = moment_band_ends(prefixes)
    stored = moments_bytes([spec.width for spec in specs], len(ends), request.moments_dtype)
    return Plan(
        model=model_info(request, loaded),
        tokenizer=tokenizer_info(loaded),
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
        prefixes=prefixes,
        logit_positions=request.logit_positions,
        sites=specs,
        compute=compute_info(request, opened, batch_tokens),
        stored_dtype=loaded.dtype,  # activations are stored as they were computed
        shards=kept_boundaries(lengths, token_bytes, request.shard_bytes, request.keep, stored),
        keep=request.keep,
        moments_dtype=request.moments_dtype,
        band_ends=ends if request.keep != "rows" and ends != prefixes else (),
    )


def site_specs(request: CaptureRequest, opened: OpenedModel) -> tuple[SiteSpec, ...]:
    """The sites that `request` chooses of a model."""
    sites = opened.sites
    return tuple(
        SiteSpec(
            name=name,
            convention="post_norm" if name == "final" and sites.final_norm else "residual",
            width=sites.width(name),
        )
        for name in choose_sites(request.sites, sites.names)
    )


def model_info(request: CaptureRequest, loaded: ModelDescription) -> ModelInfo:
    """What a plan says of the model."""
    return ModelInfo(
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
    )


def tokenizer_info(loaded: ModelDescription) -> TokenizerInfo:
    """What a plan says of the tokenizer."""
    return TokenizerInfo(
        id=loaded.id, fingerprint=loaded.tokenizer_fingerprint, size=loaded.tokenizer_size
    )


def compute_info(request: CaptureRequest, opened: OpenedModel, batch_tokens: int) -> ComputeInfo:
    """What a plan says of how the model runs."""
    options = request.engine_options.items()
    return ComputeInfo(
        backend=opened.name,
        device=opened.device,
        dtype=opened.described.dtype,
        attention=opened.attention,
        batch_tokens=batch_tokens,
        device_map=opened.device_map,
        quantization=request.model.quantization,
        trust_remote_code=request.model.trust_remote_code,
        versions=opened.versions,
        engine_options={name: canonical_json(value).decode() for name, value in options},
    )


def default_batch_tokens(device: str, token_bytes: int, context: int) -> int:
    """Tokens that run together: as many as keep the device busy, within `BATCH_BYTES`.

    At least one prompt, whatever its bytes: a prompt runs whole.
    """
    return max(context, min(BATCH_TOKENS[device], BATCH_BYTES // token_bytes))
