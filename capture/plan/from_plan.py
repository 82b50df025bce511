"""Rebuild the request of a plan, and check that the loaded model is the one of the plan.

A plan records every setting but three: where the model is on this machine, the device, and whether
the model's own code may run.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from lpp.capture.corpus.selection import Selection
from lpp.capture.models.device import choose_device
from lpp.capture.models.gguf import given_model
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.planning import compute_of, site_specs
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.exchange.projects import PROJECTS
from lpp.store.format.plan import Plan, plan_differences
from lpp.store.runs.write import require_no_moments


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """Settings of a repair that the plan does not record."""

    model: str | None = None
    """Hub name, folder or GGUF file; the plan's own model by default."""
    device: str | None = None
    """The plan's kind of device by default."""
    trust_remote_code: bool = False
    missing: bool = False
    """Whether to compute missing shards too."""


def request_of_plan(plan: Plan, options: RepairOptions) -> CaptureRequest:
    """The request that gives `plan` again. Its corpus is not read: token ids come from the run."""
    compute, name = plan.compute, plan.compute.backend
    if plan.model.source == "given" or not plan.compute.device:
        imported = "`lpp-capture import` with --repair"
        again = imported if name in PROJECTS else "its call of lpp.store.sink with repair=True"
        raise InputError(
            f"another program ({name}) collected the rows of {plan.run_id} and alone can compute "
            f"them again. Repeat {again}.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    require_no_moments(plan)
    if compute.trust_remote_code and not options.trust_remote_code:
        raise InputError(
            f"{plan.model.id} ran code of its own. If you trust its authors, repeat with "
            "--trust-remote-code.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )
    parallel = [
        p for p in (compute.device_map or "").split("+") if p.startswith("tensor_parallel=")
    ]
    attention: Any = compute.attention.rpartition("+")[2]  # of transformers, where both ran
    backend: Any = name
    return CaptureRequest(
        model=ModelSpec(
            id=given_model(options.model) if options.model else _own_model(plan),
            revision=None if options.model else plan.model.revision,
            dtype=_one_of(compute.dtype, ("bfloat16", "float16", "float32"), "auto"),
            device=choose_device(options.device or compute.device)[0],
            device_map="auto" if "auto" in (compute.device_map or "").split("+") else None,
            quantization=_one_of(compute.quantization, ("int8", "nf4"), None),
            attention=attention if name != "vllm" and attention in ("sdpa", "eager") else "auto",
            trust_remote_code=compute.trust_remote_code,
            untrained_seed=plan.model.untrained_seed,
            series=plan.model.series,
            headless=plan.logit_positions == "none",
            tokenizer_optional=not plan.tokenizer.exists,
        ),
        corpus=CorpusSpec(name=plan.corpus.name),
        selection=Selection(),
        context=plan.context,
        sites=plan.site_names,
        logit_positions=plan.logit_positions,
        backend=backend,
        tensor_parallel=int(parallel[0].partition("=")[2]) if parallel else 1,
        engine_options={key: json.loads(text) for key, text in compute.engine_options.items()},
        batch_tokens=compute.batch_tokens,
        stored_dtype={s.name: s.dtype for s in plan.sites if s.dtype and s.convention != "router"},
    )


def _one_of(value: Any, known: tuple[str, ...], other: Any) -> Any:
    return value if value in known else other


def _own_model(plan: Plan) -> str:
    if plan.model.source == "hub":
        return plan.model.id
    raise InputError(
        f"the plan knows its model as {plan.model.id}, a {plan.model.source} somewhere on the "
        "machine that captured it. Say where it is here: --model PATH.",
        kind=ErrorKind.NOT_FOUND,
    )


def check_same(plan: Plan, request: CaptureRequest, backend: Backend) -> None:
    """Raise ConflictError, with every difference, unless model, releases and settings are those of
    `plan`. The source of the weights may differ if the weights are equal.
    """
    loaded, model, tokenizer = backend.model, plan.model, plan.tokenizer
    here = replace(
        plan,
        model=replace(loaded.info, id=model.id, source=model.source, revision=model.revision),
        # of token ids that were given, the tokenizer decides nothing
        tokenizer=replace(loaded.tokenizer_info, id=tokenizer.id)
        if tokenizer.exists
        else tokenizer,
        sites=site_specs(request, backend),
        # earlier releases did not record what became of shared beginnings
        compute=compute_of(backend, branches=plan.compute.beginnings is not None),
        stored_dtype=loaded.dtype,
    )
    if fields := plan_differences(here, plan):
        listed = "\n  ".join(fields)
        raise ConflictError(
            "what is loaded here would not reproduce the numbers of this plan. What differs (here, "
            f"not there):\n  {listed}\nName the model that made it with --model, in the releases "
            "of compute.versions; or remove the run and capture again.",
            kind=ErrorKind.PLAN_DIFFERS,
        )
