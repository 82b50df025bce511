"""`lpp-capture`: run a model once over a corpus and write the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.machine import require
from lpp.store.console import LppGroup, debug_option

if TYPE_CHECKING:
    from lpp.capture.planning import CaptureRequest

DEFAULT_MIN_BYTES = 512
"""Texts shorter than this are left out, unless a length in tokens is asked for."""


@click.group(cls=LppGroup, context_settings={"max_content_width": 80})
def main() -> None:
    """Run a model once over a corpus and store what it computes.

    \b
    Activations and logit statistics go into a store; `lpp-analyze` and
    `lpp-sql` answer from it, without the model.
    """


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


@main.command()
@click.option("--model", required=True, help="Hub id, local folder, or GGUF file.")
@click.option("--revision", help="Revision of a hub model: branch, tag or commit.")
@click.option(
    "--untrained-seed",
    type=int,
    metavar="SEED",
    help="Random weights instead of the trained ones: the untrained twin.",
)
@click.option(
    "--corpus",
    required=True,
    help="alpaca, dolly, wikitext, pydoc, or a .jsonl, .parquet or .txt file, or a folder of them.",
)
@click.option("--corpus-revision", help="Revision of a hub data set.")
@click.option("--corpus-split", help="Split of a hub data set; train by default.")
@click.option("--text-field", help="Field or column that holds the text.")
@click.option("--store", required=True, type=click.Path(path_type=Path), help="Directory to write.")
@click.option(
    "--prompts", default=100, show_default=True, type=click.IntRange(1), help="Texts to take."
)
@click.option(
    "--min-bytes",
    type=click.IntRange(0),
    help="Take texts of at least this many UTF-8 bytes; 512 unless --min-tokens is given.",
)
@click.option(
    "--min-tokens",
    type=click.IntRange(1),
    help="Take texts of at least this many tokens of --count-with (the paper's rule).",
)
@click.option("--count-with", metavar="MODEL", help="Whose tokenizer counts for --min-tokens.")
@click.option(
    "--select", type=click.Choice(["first", "random"]), default="first", show_default=True
)
@click.option("--seed", default=42, show_default=True, help="For --select random.")
@click.option(
    "--context",
    default=200,
    show_default=True,
    type=click.IntRange(1),
    help="Cut each prompt at this many tokens. Every shorter context comes along.",
)
@click.option(
    "--sites",
    default="all",
    show_default=True,
    callback=_split,
    help="Where to read: all, final, embed, block.7, 'block.*', or several with commas.",
)
@click.option(
    "--logit-positions",
    type=click.Choice(["all", "schedule"]),
    default="all",
    show_default=True,
    help="Logit statistics at every token, or at the ends of the ten prefixes only.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1.")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--attention",
    type=click.Choice(["auto", "sdpa", "eager"]),
    default="auto",
    show_default=True,
    help="auto: sdpa where the model's family has it.",
)
@click.option(
    "--device-map", type=click.Choice(["auto"]), help="Spread the model over several cards."
)
@click.option(
    "--quantization", type=click.Choice(["int8", "nf4"]), help="Quantise with bitsandbytes."
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that comes with the model."
)
@click.option("--batch-tokens", type=click.IntRange(1), help="Padded tokens that run together.")
@click.option(
    "--shard-mib",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Size of a shard before compression. Two are held in memory.",
)
@click.option("--resume", metavar="RUN", help="Refuse to start anything but this run.")
@debug_option
def run(**options: Any) -> None:
    """Capture one model on one corpus into --store.

    \b
    Examples:
      lpp-capture run --model Qwen/Qwen2.5-0.5B-Instruct --corpus alpaca \\
          --store ./lpp
      lpp-capture run --model ./my-model --corpus texts.jsonl --prompts 500 \\
          --context 500 --sites final,'block.*' --device cuda --store ./lpp

    The same command resumes a run that was stopped: what is committed stays.

    Any causal transformers model whose structure is found is captured. Known to
    work: Llama, Qwen2, Qwen3, Mistral, Gemma 2, Gemma 3, Phi-3, GPT-2, GPT-NeoX,
    OPT, Falcon.
    """
    require("torch", "transformers", "safetensors")
    from lpp.capture.run import capture_into

    request = _request(options)
    run_id = capture_into(options["store"], request, resume=options["resume"])
    click.echo(f"{run_id} is complete. Next: lpp-analyze profile {options['store']}")


def _request(options: dict[str, Any]) -> "CaptureRequest":
    from lpp.capture.models import ModelSpec
    from lpp.capture.planning import CaptureRequest, CorpusSpec
    from lpp.capture.selection import Selection

    def take(*names: str) -> dict[str, Any]:
        return {name: options[name] for name in names}

    min_bytes = options["min_bytes"]
    if min_bytes is None:  # a length in tokens replaces the default length in bytes
        min_bytes = DEFAULT_MIN_BYTES if options["min_tokens"] is None else 0
    return CaptureRequest(
        model=ModelSpec(
            id=options["model"],
            **take("revision", "dtype", "device", "device_map", "quantization", "attention"),
            **take("trust_remote_code", "untrained_seed"),
        ),
        corpus=CorpusSpec(
            name=options["corpus"],
            revision=options["corpus_revision"],
            split=options["corpus_split"],
            text_field=options["text_field"],
        ),
        selection=Selection(
            min_bytes=min_bytes, **take("prompts", "min_tokens", "count_with", "select", "seed")
        ),
        shard_bytes=options["shard_mib"] << 20,
        **take("context", "sites", "logit_positions", "batch_tokens"),
    )


@main.command()
@click.option(
    "--store",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory to write.",
)
@debug_option
def demo(store: Path) -> None:
    """Capture a small packaged model and its untrained twin, and compare them.

    \b
    Example:
      lpp-capture demo --store ./demo

    SmolLM2-135M-Instruct and the same architecture with random weights read 100
    English passages of 200 tokens. About a minute on two cores; no download.
    """
    require("torch", "transformers", "safetensors")
    from lpp.capture.demo import run_demo

    run_demo(store)


if __name__ == "__main__":
    main()
