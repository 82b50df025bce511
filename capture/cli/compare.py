"""`lpp-capture compare`: capture some models on one corpus, and show what changed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lpp.capture.cli.options import STORE
from lpp.capture.models.machine import require
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import ErrorKind, InputError
from lpp.store.objects.place import Place
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import options_of
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.engine.outcome import Outcome
    from lpp.capture.plan.request import CaptureRequest

_CHOSEN: Final = (
    *("corpus", "text_field", "fields", "prompts", "seed", "context", "sites"),
    *("backend", "device", "dtype", "trust_remote_code"),
)
"""Settings of a capture that `compare` has; `lpp-capture run` has all."""

_DEFAULTS: Final = {"corpus": "pydoc", "sites": "final"}
"""Defaults that differ from `lpp-capture run`: a packaged corpus, and what gives the logits."""


def _options() -> list[click.Option]:
    options = options_of(CaptureSettings)
    chosen = [option for option in options.values() if option.name in _CHOSEN]
    for option in chosen:
        if option.name in _DEFAULTS:
            option.default, option.show_default = _DEFAULTS[option.name], True
    return chosen


@click.command(cls=LppCommand, params=_options())
@click.argument("base")
@click.argument("candidates", nargs=-1, required=True, metavar="CANDIDATE...")
@click.option(
    "--store",
    type=STORE,
    default="lpp",
    show_default=True,
    help="Keep the runs in this store: the next question about them needs no model.",
)
@click.option(
    "--skip-first",
    type=click.IntRange(min=0),
    metavar="N",
    help="Compare without the first N tokens of each prompt, such as attention sinks.",
)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with code 1 if CONDITION of `lpp-analyze diff` holds, such as 'kl.mean > 0.01'; may "
    "be repeated.",
)
@click.option("--format", "shown_as", metavar="FORMAT", help="Print text, md, html, json or csv.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write to FILE; .svg and .png are the page's picture. Default: standard output.",
)
@debug_option
def compare(
    *,
    base: str,
    candidates: tuple[str, ...],
    store: Place,
    skip_first: int | None,
    conditions: tuple[str, ...],
    shown_as: str | None,
    output: str | None,
    **chosen: Any,
) -> int:
    """Show what changed from the model BASE to each CANDIDATE.

    A model is a hub id, a local folder, a GGUF file, or demo. Each reads the same
    texts once; its run stays in --store, and a repeated command captures nothing.
    The answer is that of `lpp-analyze diff`: how far predictions moved, with
    errors. --sites all shows the block at which they begin to move.

    A pattern in quotes names the checkpoints of a training: CANDIDATE
    'out/checkpoint-*' is ordered by step.

    \b
    Examples:
      lpp-capture compare ./my-model ./my-model-int4
      lpp-capture compare ./my-model ./my-adapter --corpus texts.jsonl
      lpp-capture compare ./my-model ./my-model-int4 --sites all -o drift.html
      lpp-capture compare ./my-model ./my-model-int4 --fail-if 'kl.mean > 0.01'
      lpp-capture compare ./my-model 'out/checkpoint-*'
    """
    settings = [CaptureSettings(model=base, **chosen)]
    settings += [
        replace(settings[0], model=model, series=series, step=step)
        for name in candidates
        for model, series, step in models_named(name)
    ]
    requests = [request_of(each) for each in settings]
    runs = list(dict.fromkeys(captured(store, *requests)))
    if len(runs) == 1:
        raise InputError(
            f"{candidates[0]} has the weights of {base}: both are run {runs[0]}. Name another "
            "CANDIDATE."
        )
    names = runs if len(runs) == 2 else ["--against", *runs]
    question = [str(store), *names]
    given = [word for condition in conditions for word in ("--fail-if", condition)]
    given += [f"--skip-first={skip_first}"] if skip_first else []
    given += ["--format", shown_as] if shown_as else []
    code = run_analyze("diff", *question, *given, *(["--output", output] if output else []))
    if code < 2 and chosen["sites"] == ("final",):
        again = shlex.join(["lpp-capture", "compare", base, *candidates])
        click.echo(f"To see which block differs first: {again} --sites all", err=True)
    return code


def models_named(name: str) -> list[tuple[str, str | None, int | None]]:
    """(model, name of its training, step) of a model, or of each checkpoint that a pattern matches,
    by step.

    Raises InputError for a pattern that matches no folder, or one whose name does not end in its
    step.
    """
    if "*" not in name or Path(name).exists():
        return [(name, None, None)]
    pattern = Path(name).expanduser()
    root = Path(pattern.anchor)
    folders = [path for path in root.glob(str(pattern.relative_to(root))) if path.is_dir()]
    if not folders:
        raise InputError(f"no folder {name}. Correct the pattern.", kind=ErrorKind.NOT_FOUND)
    found = list[tuple[int, str, str]]()
    for folder in folders:
        ending = re.search(r"\d+$", folder.name)
        if ending is None:
            raise InputError(
                f"{folder} does not end in its step, such as checkpoint-500. Correct the pattern, "
                "or name each model."
            )
        found.append((int(ending[0]), str(folder), folder.resolve().parent.name))
    return [(folder, series, step) for step, folder, series in sorted(found)]


def captured(store: Place, *requests: "CaptureRequest") -> list[str]:
    """The run of each request; a complete one loads no model. Exits if a capture is stopped."""
    from lpp.capture.engine.run_cache import skip_finished
    from lpp.capture.plan.parts import WHOLE

    done = [skip_finished(store, request, WHOLE) for request in requests]
    left = [request for request, outcome in zip(requests, done, strict=True) if outcome is None]
    if left:
        require("torch", "transformers", "safetensors")
        from lpp.capture.models.model_files import check_is_there

        for request in left:  # before hours on the others
            check_is_there(request.model.id)
    runs = []
    for request, finished in zip(requests, done, strict=True):
        outcome = finished or _capture(store, request)
        if outcome.exit_code:
            click.echo(outcome.message(store), err=True)
            sys.exit(outcome.exit_code)
        runs.append(outcome.run)
    return runs


def _capture(store: Place, request: "CaptureRequest") -> "Outcome":
    from lpp.capture.engine.run import capture_into

    return capture_into(store, request, signals=True, display=SHOWN)


def run_analyze(*arguments: str) -> int:
    """Run `lpp-analyze` in its own process, since `capture` may not import `analyze`; returns its
    exit code.
    """
    return subprocess.run(analyze_command(arguments), check=False).returncode


def analyze_command(arguments: Sequence[str]) -> list[str]:
    """The command line of `lpp-analyze` in this environment."""
    return [sys.executable, "-m", "lpp.analyze.cli.command", *arguments]
