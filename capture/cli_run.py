"""`lpp-capture run`: one capture, a part of one, or a file of many."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.capture.cli_options import request_of, request_options
from lpp.capture.machine import require
from lpp.capture.parts import WHOLE, parse_part
from lpp.store.console import debug_option

if TYPE_CHECKING:
    from lpp.capture.outcome import Outcome


@click.command()
@request_options
@click.option("--store", type=click.Path(path_type=Path), help="Directory to write.")
@click.option("--resume", metavar="RUN", help="Refuse to start anything but this run.")
@click.option(
    "--part",
    metavar="K/N",
    help="Capture every N-th shard from the K-th, K from 0 to N - 1; slurm: as srun or the "
    "array numbers this task.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write what was done, or why not, as JSON.",
)
@debug_option
def run(**options: Any) -> None:
    """Capture one model on one corpus into --store.

    \b
    Examples:
      lpp-capture run --model Qwen/Qwen2.5-0.5B-Instruct --corpus alpaca \\
          --store ./lpp
      lpp-capture run --model ./my-model --corpus texts.jsonl --prompts 500 \\
          --context 500 --sites final,'block.*' --device cuda --store ./lpp
      srun lpp-capture run --model ./my-model --corpus texts.jsonl \\
          --device cuda --store ./lpp --part slurm

    The same command resumes a run that was stopped: what is committed stays.

    Any causal transformers model whose structure is found is captured. Known to
    work: Llama, Qwen2, Qwen3, Mistral, Gemma 2, Gemma 3, Phi-3, GPT-2, GPT-NeoX,
    OPT, Falcon.
    """
    for name in ("model", "corpus", "store"):
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    with reported(options["report"]) as done:
        part = WHOLE if options["part"] is None else parse_part(options["part"], os.environ)
        request = request_of(options)
        require("torch", "transformers", "safetensors")
        from lpp.capture.run import capture_into

        outcome = capture_into(options["store"], request, resume=options["resume"], part=part)
        done.append(outcome)
    click.echo(outcome.words(options["store"]))


@contextmanager
def reported(file: Path | None) -> Iterator[list["Outcome"]]:
    """A list for the outcome, which is written to `file` at the end; the failure where it fails."""
    outcomes: list[Outcome] = []
    document: Any = None
    try:
        yield outcomes
        document = outcomes[0].document()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        document = {"status": "failed", "reason": first}
        raise
    finally:
        if file is not None and document is not None:
            file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
