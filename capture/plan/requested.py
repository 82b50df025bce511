"""The request that settings make: defaults that depend on other settings, and contradictions."""

import math
from fnmatch import fnmatchcase
from typing import Any, Final

from lpp.capture.corpus.open import CORPUS_NAMES
from lpp.capture.corpus.selection import SEED, Selection
from lpp.capture.models.device import choose_device
from lpp.capture.models.gguf import given_model
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import ROUTER, CaptureRequest, ContinuationSpec, CorpusSpec
from lpp.capture.plan.series import series_of
from lpp.capture.plan.settings import (
    DEFAULT_MIN_BYTES,
    DEFAULT_PROMPTS,
    LEAST_TEMPERATURE,
    CaptureSettings,
)
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import SiteDtype
from lpp.store.format.run_names import name_problem

_SITES: Final = (
    *("all", "embed", "final", "routers"),
    *(f"{kind}.{k}" for k in range(1, 1000) for kind in ("block", ROUTER)),
    *(f"{ROUTER}.{k}.weight" for k in range(1, 1000)),
)
"""Names that a site of some model may have."""

STORED_DTYPES: Final[dict[str, SiteDtype | None]] = {"auto": None, "float8_e4m3": "float8_e4m3"}
"""Values of --stored-dtype; auto: as computed."""


def request_of(settings: CaptureSettings) -> CaptureRequest:
    """The request that settings make. Raises InputError for those that exclude each other."""

    def take(*names: str) -> dict[str, Any]:
        return {name: getattr(settings, name) for name in names}

    if "," in (settings.revision or ""):
        raise InputError(
            f"revision {settings.revision!r} is a list, and a run has one revision. Repeat the "
            "command for each, in a loop of the shell, with --series NAME."
        )
    for pattern in settings.sites:
        if not any(fnmatchcase(name, pattern) for name in _SITES):
            raise InputError(
                f"no site {pattern!r} in any model: sites are embed, block.1, block.2 and so on, "
                "and final; block.3 is what layers[2] of a model returns. Choose with --sites, "
                "such as --sites final,'block.*'.",
                kind=ErrorKind.NOT_FOUND,
            )
    assert settings.model is not None
    assert settings.corpus is not None
    if settings.logit_positions == "none" and settings.keep_head == "yes":
        raise InputError(
            "--keep-head yes keeps what gives logits: leave out --logit-positions none."
        )
    if settings.name is not None and (problem := name_problem(settings.name)):
        raise InputError(f"--name {settings.name!r}: {problem}.")
    model = given_model(settings.model)
    own_corpus = settings.corpus not in CORPUS_NAMES
    min_bytes = settings.min_bytes
    if min_bytes is None:  # a length in tokens replaces the default length in bytes
        min_bytes = 0 if own_corpus or settings.min_tokens is not None else DEFAULT_MIN_BYTES
    return CaptureRequest(
        model=ModelSpec(
            id=model,
            **take("revision", "dtype", "device_map", "quantization", "attention"),
            device=choose_device(settings.device)[0],
            headless=settings.logit_positions == "none",
            **take("trust_remote_code", "untrained_seed"),
            series=series_of(
                model=model,
                revision=settings.revision,
                name=settings.series,
                step=settings.step,
                untrained=settings.untrained_seed is not None,
            ),
        ),
        corpus=CorpusSpec(
            name=settings.corpus,
            revision=settings.corpus_revision,
            split=settings.corpus_split,
            text_field=settings.text_field,
            **take("fields", "keep_texts", "chat_template", "token_fields"),
        ),
        selection=Selection(
            prompts=_prompts(settings),
            unasked=settings.prompts is None,
            min_bytes=min_bytes,
            select="first" if settings.seed is None else "random",
            seed=SEED if settings.seed is None else settings.seed,
            **take("min_tokens", "count_with"),
        ),
        continuation=_continuation(settings),
        shard_bytes=None if settings.shard_mib is None else settings.shard_mib << 20,
        **take("name", "context", "sites", "logit_positions", "batch_tokens"),
        stored_dtype=_stored_dtype(settings),
        **take("keep_head"),
        **take("backend", "tensor_parallel", "engine_options", "check_sites"),
    )


def _prompts(settings: CaptureSettings) -> int | None:
    """Most texts; None: all of them."""
    if isinstance(settings.prompts, int):
        return settings.prompts
    return None if settings.prompts else DEFAULT_PROMPTS


def _stored_dtype(settings: CaptureSettings) -> dict[str, SiteDtype | None]:
    """The number type of rows by pattern of sites, `all` first. InputError for another type."""
    by_site: dict[str, SiteDtype | None] = {"all": None}
    for part in settings.stored_dtype:
        pattern, _, dtype = part.rpartition("=")
        if dtype not in STORED_DTYPES:
            raise InputError(
                f"--stored-dtype {part}: give {' or '.join(STORED_DTYPES)}; for some sites "
                "SITE=DTYPE, such as --stored-dtype float8_e4m3,final=auto."
            )
        by_site[pattern or "all"] = STORED_DTYPES[dtype]
    return by_site if any(by_site.values()) else {}


def _continuation(settings: CaptureSettings) -> ContinuationSpec | None:
    """What the model is to write. Raises InputError for settings that contradict each other."""
    tokens, temperature = settings.continue_tokens, settings.temperature
    seed = settings.generation_seed
    if tokens is not None and settings.logit_positions == "none":
        raise InputError(
            "--continue chooses tokens by their logits: leave out --logit-positions none."
        )
    if tokens is None:
        for name, value in (("temperature", temperature), ("generation-seed", seed)):
            if value is not None:
                raise InputError(
                    f"--{name} says how the model continues each prompt: it needs --continue N."
                )
        return None
    temperature = temperature or 0.0
    if temperature and not LEAST_TEMPERATURE <= temperature < math.inf:  # nan is not either
        raise InputError(
            f"--temperature {temperature:g}: give 0 for the most likely token, or a number from "
            f"{LEAST_TEMPERATURE} on."
        )
    if seed is not None and not temperature:
        raise InputError(
            "--generation-seed is the seed of draws, and without --temperature nothing is drawn: "
            "the most likely token is taken. Leave it out, or add --temperature 1."
        )
    return ContinuationSpec(tokens=tokens, temperature=temperature, seed=seed)
