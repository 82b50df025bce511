"""Check that a model the caller has loaded can be captured, and leave it unchanged.

A model is refused if no two passes compute alike (dropout), or if no state can be read from it: it
is compiled.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, cast

from torch import nn

from lpp.capture.models.device import KINDS, kind_name
from lpp.capture.models.gguf import folder_model
from lpp.capture.models.hub import looks_like_a_path
from lpp.capture.models.spec import LoadedModel, ModelSpec
from lpp.capture.models.structure.anatomy import input_device, logits_width
from lpp.store.errors import ErrorKind, InputError

NEUTRAL: Final = {"output_hidden_states": False, "output_attentions": False, "return_dict": True}
"""Settings of a configuration that select what a forward pass returns, and change no number."""

_NAME_BYTES: Final = 1000
"""Most bytes of a name, or of the path of its files."""


def loaded_model(module: Any, tokenizer: Any, name: str | None = None) -> LoadedModel:
    """A model and its tokenizer, checked. Raises InputError if they cannot be captured as they are.

    module: a transformers causal language model; for a PEFT model, the model around its adapters.
    """
    module = _transformers_model(module)
    _check_name("name", name or "")
    _check_name("the model's config._name_or_path", module.config._name_or_path)
    _check_modules(module)
    _check_devices(module)
    _check_tokenizer(module, tokenizer)
    return LoadedModel(module=module, tokenizer=tokenizer, name=name)


def loaded_spec(loaded: LoadedModel) -> ModelSpec:
    """How `loaded` was loaded, as the request for a model by name would say it."""
    module = loaded.module
    return ModelSpec(
        id=loaded.name or known_as(module.config._name_or_path) or type(module).__name__,
        device=str(input_device(module)),
        device_map="auto" if len(_devices(module)) > 1 else None,
        quantization=_quantization(module),
        trust_remote_code=type(module).__module__.startswith("transformers_modules."),
    )


@contextmanager
def left_as_it_was(module: nn.Module) -> Iterator[None]:
    """When the block ends, undo every change of attributes of the modules and the configuration.

    Hooks, flags, buffers and caches are restored; weights are not copied, because nothing writes
    them. Inside the block the configuration has the neutral settings.
    """
    holders = [vars(part) for part in module.modules()]
    config: Any = module.config
    holders += [vars(config), vars(config.get_text_config())]
    containers = [
        container
        for holder in holders
        for container in (holder, *holder.values())
        if isinstance(container, dict)
    ]
    before = [(container, dict(container)) for container in containers]
    try:
        for name, value in NEUTRAL.items():
            setattr(config, name, value)
        yield
    finally:
        for container, content in before:
            container.clear()
            container.update(content)


def known_as(name_or_path: str) -> str:
    """The name of a model or tokenizer: its name on the hub, or its folder's name without the path.

    >>> known_as("/home/ada/models/tiny"), known_as("Qwen/Qwen2.5-0.5B"), known_as("")
    ('tiny', 'Qwen/Qwen2.5-0.5B', '')
    """
    folder = Path(name_or_path).expanduser()
    if not name_or_path or not (folder.is_dir() or looks_like_a_path(name_or_path)):
        return name_or_path
    return folder_model(folder)[0]


def _transformers_model(module: Any) -> Any:
    """The transformers model that `module` is, or that a PEFT model holds."""
    kind = type(module).__name__
    if isinstance(getattr(module, "_orig_mod", None), nn.Module):
        raise _refusal("the model is compiled by torch.compile. Give model._orig_mod instead.")
    if type(module).__module__.partition(".")[0] == "peft":
        active = module.active_peft_config
        if active.is_prompt_learning or getattr(active, "alora_invocation_tokens", None):
            raise _refusal(
                f"the {kind} acts on prompts (learned tokens, aLoRA), and not on weights alone. "
                "Give model.get_base_model(), or adapters that change weights, such as LoRA."
            )
        return module.get_base_model()
    if not hasattr(module, "config") and isinstance(getattr(module, "module", None), nn.Module):
        raise _refusal(f"the model is wrapped in {kind}. Give model.module instead.")
    config = getattr(module, "config", None)
    if not isinstance(module, nn.Module) or not hasattr(config, "_name_or_path"):
        raise _refusal(
            f"the model is {kind}, not a model of transformers. Give one that "
            "AutoModelForCausalLM.from_pretrained loads, or the name of one."
        )
    if cast("Any", module).get_output_embeddings() is None or getattr(
        module.config, "is_encoder_decoder", False
    ):
        raise _refusal(
            f"{kind} is not a causal language model, which gives logits of the next token. Load it "
            "with AutoModelForCausalLM.from_pretrained."
        )
    return module


def _check_name(what: str, name: object) -> None:
    if not (isinstance(name, str) and name.isprintable() and len(name.encode()) <= _NAME_BYTES):
        raise _refusal(
            f"{what} is {ascii(name)[:60]}; it should be at most {_NAME_BYTES} bytes of text that "
            "prints, since stores show it. Set another."
        )


def _check_modules(module: nn.Module) -> None:
    for name, part in module.named_modules():
        which = f"the model's {name}" if name else "the model"
        if part.training:
            raise _refusal(
                f"{which} is in training mode, in which dropout changes states at random. Call "
                "model.eval() first."
            )
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise _refusal(
                f"{which} is compiled by its method compile(): no state can be read inside. Load "
                "the model again, and do not compile it before it is captured."
            )


def _devices(module: nn.Module) -> list[str]:
    return sorted({str(weight.device) for weight in module.parameters()})


def _check_devices(module: nn.Module) -> None:
    devices = _devices(module)
    if "meta" in devices:
        raise _refusal(
            "some of the model's weights are on the meta device: they are not in memory. Load it "
            "without offloading, or give its name with device_map='auto'."
        )
    if len(devices) > 1 and not getattr(module, "hf_device_map", None):
        raise _refusal(
            f"the model's weights are on {' and '.join(devices)}, and nothing moves states between "
            "them. Call model.to(device), or load it with device_map='auto'."
        )
    for device in devices:
        if kind_name(device) not in KINDS:
            raise _refusal(f"the model is on {device}, where capture does not run: model.to('cpu')")


def _check_tokenizer(module: Any, tokenizer: Any) -> None:
    if tokenizer is None:  # for token ids; a text is refused without it
        return
    if not callable(tokenizer) or not hasattr(tokenizer, "get_vocab"):
        inside = " Give its tokenizer: processor.tokenizer." if _holds_tokenizer(tokenizer) else ""
        raise _refusal(
            f"the tokenizer is {type(tokenizer).__name__}, not a tokenizer of transformers."
            f"{inside or ' Give the one that AutoTokenizer.from_pretrained loads for the model.'}"
        )
    _check_name("the tokenizer's name_or_path", getattr(tokenizer, "name_or_path", None))
    width = logits_width(module)
    if len(tokenizer) > width:
        raise _refusal(
            f"the tokenizer has {len(tokenizer):,} entries and the model's logits {width:,}: it is "
            "another model's. Give the one that AutoTokenizer.from_pretrained loads for this model."
        )


def _holds_tokenizer(thing: Any) -> bool:
    return hasattr(getattr(thing, "tokenizer", None), "get_vocab")


def _quantization(module: Any) -> Literal["int8", "nf4"] | None:
    """The --quantization that a model which bitsandbytes quantised corresponds to."""
    settings = getattr(module.config, "quantization_config", None)
    if getattr(settings, "load_in_8bit", False):
        return "int8"
    if not getattr(settings, "load_in_4bit", False):
        return None  # not quantised, or quantised in its files: then files and configuration say so
    kind = getattr(settings, "bnb_4bit_quant_type", None)
    if kind != "nf4":
        raise _refusal(
            f"the model is quantised to {kind}, which no plan has a name for. Load it with "
            "bnb_4bit_quant_type='nf4'."
        )
    return "nf4"


def _refusal(message: str) -> InputError:
    return InputError(message, kind=ErrorKind.UNSUPPORTED_MODEL)
