"""The options of `lpp-capture run`, and the request that they make.

A file of jobs has the same options, with the same names and checks.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.capture.corpus.selection import Selection
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec, CorpusSpec
from lpp.capture.plan.series import series_of
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.documents import MAX_INTEGER
from lpp.store.objects.place import Place, place

if TYPE_CHECKING:
    _ParamType = click.ParamType[Place]
else:
    _ParamType = click.ParamType  # generic since click 8.2

Decorator = Callable[[Any], Any]

LEAST_TEMPERATURE: Final = 0.01
"""The lowest temperature that vLLM respects. Below it, draws are practically greedy."""

DEFAULT_MIN_BYTES: Final = 512
"""Shorter texts are left out, unless the user gives a length in tokens."""

GRACE_SECONDS: Final = 60.0
"""Time to finish the current shard after the first request to stop."""


class StoreType(_ParamType):
    """A directory or the URL of a bucket's prefix. The error for a bad URL quotes no secrets."""

    name = "store"

    def convert(self, value: Any, param: Any, ctx: Any) -> Place:
        """The place that `value` names. Accesses nothing."""
        return place(value)


STORE: Final = StoreType()
"""The type of every `--store` that a command writes."""


def split_names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Names separated by commas; a file of jobs may give a list of names instead."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _engine_options(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    """Parse `gpu_memory_utilization=0.8` to {"gpu_memory_utilization": 0.8}: JSON, else text."""
    options = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context, parameter)
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


MODEL_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option("--model", help="Capture this model: a hub id, a local folder or a GGUF file."),
    click.option(
        "--revision",
        help="Load this branch, tag or commit of a hub model. Several, separated by commas, such "
        "as step1000,step2000,main=3000, make one run each, all of one series.",
    ),
    click.option(
        "--series",
        metavar="NAME",
        help="Record the model as a checkpoint of the training NAME. Needs --step, unless the name "
        "of the revision holds the step.",
    ),
    click.option(
        "--step",
        type=click.IntRange(0, MAX_INTEGER),
        metavar="N",
        help="Record the model as the checkpoint at step N. Default of --series, for a hub model: "
        "the name of the model.",
    ),
    click.option(
        "--untrained-seed",
        type=int,
        metavar="SEED",
        help="Draw random weights from this seed instead of loading the trained ones.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["auto", "torch", "vllm", "vllm+torch"]),
        default="auto",
        show_default=True,
        help="Run the model with this engine. auto: vllm on a GPU where it is installed, else "
        "torch. vllm+torch: logits from vLLM, hidden states from torch.",
    ),
    click.option(
        "--tensor-parallel",
        type=click.IntRange(1),
        default=1,
        metavar="N",
        show_default=True,
        help="Share the model among N GPUs in vLLM.",
    ),
    click.option(
        "--engine-option",
        "engine_options",
        multiple=True,
        callback=_engine_options,
        metavar="NAME=VALUE",
        help="Set an argument of vLLM's EngineArgs, such as gpu_memory_utilization=0.8; may be "
        "repeated.",
    ),
    click.option(
        "--check-sites",
        is_flag=True,
        help="Before capture inside vLLM, compare every site with transformers on a few tokens.",
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="Compute on this device: cpu, cuda, cuda:1.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
        default="auto",
        show_default=True,
        help="Compute in this number type. auto: as the model says.",
    ),
    click.option(
        "--attention",
        type=click.Choice(["auto", "sdpa", "eager"]),
        default="auto",
        show_default=True,
        help="Compute attention with this kernel. auto: sdpa where the model's family has it.",
    ),
    click.option(
        "--device-map", type=click.Choice(["auto"]), help="Spread the model over several GPUs."
    ),
    click.option(
        "--quantization",
        type=click.Choice(["int8", "nf4"]),
        help="Quantise the weights with bitsandbytes.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="Allow Python code that comes with the model to run.",
    ),
)

CORPUS_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option(
        "--corpus",
        help="Read the texts of this corpus: alpaca, dolly, wikitext or pydoc; a .jsonl, .parquet "
        "or .txt file; or a folder of such files.",
    ),
    click.option("--corpus-revision", help="Read this revision of a hub data set."),
    click.option("--corpus-split", help="Read this split of a hub data set. Default: train."),
    click.option("--text-field", metavar="NAME", help="Take the text from this field or column."),
    click.option(
        "--fields",
        default="",
        callback=split_names,
        metavar="NAMES",
        help="Keep these fields of each row with its prompt, such as label,split. An id is kept "
        "wherever there is one.",
    ),
    click.option("--keep-texts", is_flag=True, help="Keep each text with its prompt."),
    click.option(
        "--prompts",
        default=100,
        show_default=True,
        type=click.IntRange(1),
        help="Use this many texts.",
    ),
    click.option(
        "--min-bytes",
        type=click.IntRange(0),
        help="Use texts of at least this many UTF-8 bytes. Default: 512, or 0 with --min-tokens.",
    ),
    click.option(
        "--min-tokens",
        type=click.IntRange(1),
        help="Use texts of at least this many tokens of --count-with (the paper's rule).",
    ),
    click.option(
        "--count-with", metavar="MODEL", help="Count for --min-tokens with the tokenizer of MODEL."
    ),
    click.option(
        "--select",
        type=click.Choice(["first", "random"]),
        default="first",
        show_default=True,
        help="Use the first texts that are long enough, or random ones.",
    ),
    click.option(
        "--seed",
        default=42,
        show_default=True,
        help="With --select random: draw the texts from this seed.",
    ),
)

CAPTURE_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option(
        "--context",
        default=200,
        show_default=True,
        type=click.IntRange(1),
        help="Cut each prompt at this many tokens. Analysis can use every shorter context too.",
    ),
    click.option(
        "--continue",
        "continue_tokens",
        type=click.IntRange(1),
        metavar="N",
        help="Let the model write up to N tokens after each prompt, and capture both together.",
    ),
    click.option(
        "--temperature",
        type=float,
        metavar="T",
        help="With --continue: draw each token at this temperature. 0, the default, takes the "
        "most likely token.",
    ),
    click.option(
        "--generation-seed",
        type=click.IntRange(0, MAX_INTEGER),
        metavar="SEED",
        help="With --temperature: draw tokens from this seed (--seed is that of --select random). "
        "Default: a random seed, which the store keeps.",
    ),
    click.option(
        "--sites",
        default="all",
        show_default=True,
        callback=split_names,
        metavar="NAME,...",
        help="Capture these sites: all, final, embed, block.7, 'block.*', or several of them.",
    ),
    click.option(
        "--logit-positions",
        type=click.Choice(["all", "schedule"]),
        default="all",
        show_default=True,
        help="Compute logit statistics at every token, or only at the ends of the ten prefixes.",
    ),
    click.option(
        "--keep",
        type=click.Choice(["rows", "moments", "both"]),
        default="rows",
        show_default=True,
        help="Keep every activation (rows); or only count, mean and scatter matrix of each site "
        "and prefix, which is all that ranks need (moments); or both. The command prints the "
        "size before it starts.",
    ),
    click.option(
        "--moments-dtype",
        type=click.Choice(["float64", "float32"]),
        default="float64",
        show_default=True,
        help="Store scatter matrices in this number type; float32 rounds each entry by at most "
        "2^-24 of it.",
    ),
    click.option(
        "--keep-head",
        type=click.Choice(["auto", "yes", "no"]),
        default="auto",
        show_default=True,
        help="Keep the unembedding, once for each model of a store, so that logits can be computed "
        "from `final`. auto: yes with rows of `final`, unless it is larger than the rows.",
    ),
    click.option(
        "--batch-tokens",
        type=click.IntRange(1),
        metavar="N",
        help="Run at most N tokens in a batch, padding included. Default: chosen for the device.",
    ),
    click.option(
        "--shard-mib",
        type=click.IntRange(1),
        metavar="MIB",
        help="Write shards of about this size before compression. Default: 256, or 2048 on a GPU. "
        "Memory holds up to three; a batch cannot be larger.",
    ),
)


grace_option: Final[Decorator] = click.option(
    "--grace",
    type=click.FloatRange(0),
    default=GRACE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="After Ctrl-C or SIGTERM, wait this long for the current shard.",
)


EXECUTOR_OPTIONS: Final[tuple[Decorator, ...]] = (
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Capture in this process, or on a Ray cluster; without --address, one is started "
        "here.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="With --executor ray: connect to this head of a running cluster; auto finds it.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="With --executor ray: load the model N times. Default: once for each GPU.",
    ),
)


def check_executor(options: Mapping[str, Any]) -> None:
    """Raise UsageError for an option of Ray without --executor ray."""
    for name in ("address", "workers"):
        if options[name] is not None and options["executor"] != "ray":
            raise click.UsageError(f"--{name} needs --executor ray.")


def executor_arguments(options: Mapping[str, Any]) -> list[str]:
    """The options of the executor as arguments of a command line."""
    names = [name for name in ("executor", "address", "workers") if options[name] is not None]
    return [f"--{n}={options[n]}" for n in names] if options["executor"] != "local" else []


def executor_options(command: Any) -> Any:
    """`--executor`, `--address` and `--workers`."""
    for option in reversed(EXECUTOR_OPTIONS):
        command = option(command)
    return command


def request_options(command: Any) -> Any:
    """Every option of the model, the corpus and the capture."""
    for option in reversed((*MODEL_OPTIONS, *CORPUS_OPTIONS, *CAPTURE_OPTIONS)):
        command = option(command)
    return command


@functools.cache
def option_by_name() -> Mapping[str, click.Option]:
    """The options of `request_options` by long name without the dashes, such as `min-bytes`."""
    command: click.Command = request_options(click.command()(lambda: None))
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {option.opts[-1].removeprefix("--"): option for option in options}


def request_of(options: Mapping[str, Any]) -> CaptureRequest:
    """The request of parsed options. Raises InputError for options that exclude each other."""

    def take(*names: str) -> dict[str, Any]:
        return {name: options[name] for name in names}

    if options["moments_dtype"] != "float64" and options["keep"] == "rows":
        raise InputError(
            "--moments-dtype needs --keep moments or --keep both: rows alone have no moments.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if "," in (options["revision"] or ""):
        raise InputError(
            f"revision {options['revision']!r} is a list, and one run has one revision. In a file "
            'of jobs write [matrix] revision = ["...", "..."].',
            kind=ErrorKind.INVALID_VALUE,
        )
    min_bytes = options["min_bytes"]
    if min_bytes is None:  # a length in tokens replaces the default length in bytes
        min_bytes = DEFAULT_MIN_BYTES if options["min_tokens"] is None else 0
    return CaptureRequest(
        model=ModelSpec(
            id=options["model"],
            **take("revision", "dtype", "device", "device_map", "quantization", "attention"),
            **take("trust_remote_code", "untrained_seed"),
            series=series_of(
                model=options["model"],
                revision=options["revision"],
                name=options["series"],
                step=options["step"],
                untrained=options["untrained_seed"] is not None,
            ),
        ),
        corpus=CorpusSpec(
            name=options["corpus"],
            revision=options["corpus_revision"],
            split=options["corpus_split"],
            text_field=options["text_field"],
            **take("fields", "keep_texts"),
        ),
        selection=Selection(
            min_bytes=min_bytes, **take("prompts", "min_tokens", "count_with", "select", "seed")
        ),
        continuation=continuation_of(options),
        shard_bytes=None if options["shard_mib"] is None else options["shard_mib"] << 20,
        **take("context", "sites", "logit_positions", "batch_tokens", "keep", "moments_dtype"),
        **take("keep_head"),
        **take("backend", "tensor_parallel", "engine_options", "check_sites"),
    )


def continuation_of(options: Mapping[str, Any]) -> ContinuationSpec | None:
    """The continuation that parsed options ask for. Raises InputError for contradictory options."""
    tokens, temperature = options["continue_tokens"], options["temperature"]
    seed = options["generation_seed"]
    if tokens is None:
        for name, value in (("temperature", temperature), ("generation-seed", seed)):
            if value is not None:
                raise InputError(
                    f"--{name} says how the model continues each prompt: it needs --continue N.",
                    kind=ErrorKind.INVALID_VALUE,
                )
        return None
    temperature = temperature or 0.0
    if temperature and not LEAST_TEMPERATURE <= temperature < math.inf:  # nan is not either
        raise InputError(
            f"--temperature {temperature:g}: give 0 for the most likely token, or a number from "
            f"{LEAST_TEMPERATURE} on.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if seed is not None and not temperature:
        raise InputError(
            "--generation-seed is the seed of draws, and without --temperature nothing is drawn: "
            "the most likely token is taken. Leave it out, or add --temperature 1.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return ContinuationSpec(tokens=tokens, temperature=temperature, seed=seed)
