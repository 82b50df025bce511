"""Adapters of PEFT: folders with an adapter_config.json, which names the base model."""

import json
from pathlib import Path
from typing import Any, Final

from lpp.capture.models.complete import listed
from lpp.capture.models.fingerprints import document_fingerprint, weight_files, weights_fingerprint
from lpp.capture.models.machine import out_of_memory, require
from lpp.capture.models.spec import ModelSpec
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import Progress

ADAPTER_CONFIG: Final = "adapter_config.json"
BASE: Final = "base_model_name_or_path"
_WEIGHTS: Final = "adapter_model.safetensors"


def base_of(folder: Path) -> tuple[str, str | None] | None:
    """(hub name or path, revision) of the base of the adapter in `folder`; None: no adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    settings = _settings(folder)
    name, beside = settings.get(BASE), folder / (settings.get(BASE) or ".")
    if not name:
        raise InputError(f"{folder / ADAPTER_CONFIG} names no base. Write it as {BASE}.")
    return str(beside) if beside.exists() else name, settings.get("revision")


def check_adapter(folder: Path, spec: ModelSpec) -> None:
    """Refuse an adapter that cannot be merged, or not as `spec` says. Loads no weights."""
    require("peft", extra="adapters")
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    kind, task = map(_settings(folder).get, ("peft_type", "task_type"))
    if kind == "XLORA" or not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload"):
        raise refusal(spec, f"is of the kind {kind}, which this peft cannot merge into weights")
    if task not in (None, "CAUSAL_LM"):
        raise refusal(spec, f"is for the task {task}, not CAUSAL_LM")
    if spec.untrained_seed is not None or spec.device_map is not None:
        raise refusal(spec, "does not go with --untrained-seed or --device-map")


def merged(base: Any, folder: Path, spec: ModelSpec, progress: Progress) -> Any:
    """`base` with the adapter in `folder` merged into its weights by peft, which changes `base`."""
    from peft import PeftConfig, PeftModelForCausalLM
    from safetensors.torch import load_file

    weight_files(folder, spec.id)  # refuses pickles
    weights = load_file(folder / _WEIGHTS)
    if spoilt := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise refusal(spec, f"has NaN or infinity in {listed(spoilt)}")
    quantised = getattr(base.config, "quantization_config", None) is not None
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    names = {name for name, part in base.named_modules() if part in (embedding, head)}
    try:
        adapted: Any = PeftModelForCausalLM(base, PeftConfig.from_pretrained(str(folder)))
        found = adapted.load_adapter(folder, "default", torch_device="cpu")
        # merging would round quantised weights once more
        model = adapted.get_base_model() if quantised else adapted.merge_and_unload()
    except Exception as error:  # of any class: another shape, a module that is not there
        if out_of_memory(error):
            raise
        raise refusal(spec, f"does not fit its base: {' '.join(str(error).split())}") from error
    if wrong := [*found.missing_keys, *found.unexpected_keys]:
        raise refusal(spec, f"has not exactly the weights that its base asks for: {listed(wrong)}")
    if head.weight is embedding.weight and names & {*adapted.base_model.targeted_module_names}:
        raise refusal(spec, "changes one of two tied matrices (embedding, head), not both")
    how = "kept beside the quantised weights of" if quantised else "merged into"
    progress.warn(f"{spec.id} is an adapter, {how} its base in {model.dtype}")
    return model


def adapted_fingerprint(base: str, folder: Path) -> str:
    """Fingerprint of a base, whose fingerprint is `base`, with the adapter in `folder`."""
    settings = {**_settings(folder), BASE: base, "revision": None}  # wherever the base lies
    return document_fingerprint([settings, weights_fingerprint([folder / _WEIGHTS])])


def refusal(spec: ModelSpec, reason: str) -> InputError:
    """The error for an adapter that cannot be captured."""
    return InputError(
        f"the adapter {spec.id} {reason}. Save it again with peft, correct {BASE} in its "
        f"{ADAPTER_CONFIG}, or give the whole model: what merge_and_unload() returns, saved.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


def _settings(folder: Path) -> Any:
    return json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
