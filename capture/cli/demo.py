"""`lpp-capture demo`: a packaged model, its untrained twin and a rounded copy, on two cores."""

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lpp.capture.cli.compare import analyze_command, captured
from lpp.capture.cli.options import STORE
from lpp.store.objects.place import Place
from lpp.store.process.packages import install_command
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.progress import SHOWN

if TYPE_CHECKING:
    from lpp.capture.plan.request import CaptureRequest

PROMPTS: Final = 100
_CONTEXT: Final = 200
UNTRAINED_SEED: Final = 0
BITS: Final = 4
"""Bits of the rounded copy's weights, on one grid for each output channel. The packaged model is
quantised to four bits already, on a finer grid: one for each 32 weights."""

REPORT: Final = "report.html"
"""File name of the report, in the store's directory."""

CHARTS: Final = ("altair", "vl_convert")
"""Packages that the report needs: the extra `report`."""

QUERIES: Final = (
    "SELECT name, entropy_floor, participation_ratio, effective_rank\n"
    "     FROM profiles JOIN runs USING (run)",
    "SELECT depth, site, effective_rank, top_share FROM spectra\n"
    "     WHERE prefix = context AND run = '{trained}'\n     ORDER BY depth",
    "SELECT name, avg(entropy) AS nats,\n     avg((next_rank = 1)::INT) AS top1_accuracy\n"
    "     FROM token_stats JOIN runs USING (run) GROUP BY run, name",
)
"""Three questions to try next; trained: the run of the model as it is."""


@click.command(cls=LppCommand)
@click.option(
    "--store",
    default="demo",
    show_default=True,
    type=STORE,
    help="Write the store into this directory.",
)
@debug_option
def demo(store: Place) -> None:
    """Capture a small packaged model and two variants; compare them.

    \b
    Example:
      lpp-capture demo --store ./demo

    SmolLM2-135M-Instruct, the same architecture with random weights, and the model with
    the weights of its blocks rounded to 4 bits read 100 English passages of 200 tokens.
    A few minutes on two cores; no download.
    """
    if not isinstance(store, Path):
        raise click.UsageError("--store: the demo writes a directory of this machine.")
    from lpp.capture.models.gguf import packaged_model
    from lpp.capture.models.machine import require
    from lpp.store import open_store

    model = packaged_model()  # before torch is imported, which takes seconds
    require("torch", "transformers", "safetensors", "gguf", "accelerate")

    requests = (demo_request(model, None), demo_request(model, UNTRAINED_SEED))
    trained, _ = captured(store, *requests)
    rounded = capture_rounded(store, demo_request(model, None))
    _analyze("profile", str(store))
    click.echo()
    names = open_store(store).names
    _show_drift(store, names[trained], names[rounded])
    report = store.resolve() / REPORT
    if all(map(importlib.util.find_spec, CHARTS)):
        _analyze("report", str(store), "--output", str(report), quiet=True)
        click.echo(f"The report, for a browser: {report}")
    else:
        click.echo(
            f"For a report: {install_command('report')}; then: "
            f"lpp-analyze report {shlex.quote(str(store))}"
        )
    click.echo(f"The store: {store.resolve()}")
    if shutil.which("lpp-sql") is None and (activate := activation()) is not None:
        click.echo(f"To run these commands, first: . {shlex.quote(str(activate))}")
    click.echo("Three questions to try next:")
    for query in QUERIES:
        question = query.format(trained=trained)
        click.echo(f'\n  lpp-sql {shlex.quote(str(store))} \\\n    "{question}"')


def activation() -> Path | None:
    """What a shell sources to find the commands of this environment; None outside of one."""
    script = Path(sys.executable).with_name("activate")
    if not script.is_file():
        return None
    here = Path.cwd()
    return script.relative_to(here) if script.is_relative_to(here) else script


def demo_request(model: Path, untrained_seed: int | None) -> "CaptureRequest":
    """100 passages of 200 tokens, every site, every logit statistic, the head."""
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, CorpusSpec

    return CaptureRequest(
        model=ModelSpec(id=str(model), untrained_seed=untrained_seed),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(prompts=PROMPTS),
        context=_CONTEXT,
        keep_head="yes",
    )


def capture_rounded(store: Path, request: "CaptureRequest") -> str:
    """The run of `request` with the weights of the model's blocks rounded in memory."""
    from lpp.capture.engine.run_cache import request_key, skip_finished
    from lpp.capture.models.fingerprints import document_fingerprint
    from lpp.capture.plan.parts import WHOLE

    of_trained = request_key(request)
    key = None if of_trained is None else document_fingerprint([of_trained, "rounded", BITS])
    if key is not None and (finished := skip_finished(store, request, WHOLE, key)):
        return finished.run
    from lpp.capture.engine.run import capture_into
    from lpp.capture.models.load import load_model
    from lpp.capture.models.loaded import loaded_spec
    from lpp.capture.models.spec import LoadedModel
    from lpp.capture.models.structure.rounding import round_blocks
    from lpp.capture.plan.request import InMemory

    model = load_model(request.model)
    round_blocks(model.module, BITS)
    name = f"{model.info.id}, rounded to {BITS} bits"
    loaded = LoadedModel(module=model.module, tokenizer=model.tokenizer, name=name)
    request = replace(request, model=loaded_spec(loaded), backend="torch")
    given = InMemory(model=loaded, key=key)
    return capture_into(store, request, given=given, display=SHOWN).run


def _show_drift(store: Path, trained: str, rounded: str) -> None:
    """Print one line on what rounding changed, and the command that shows where."""
    of_json = ("--format", "json")
    diff = json.loads(_analyze("diff", str(store), trained, rounded, *of_json, quiet=True))
    numbers = {row["number"]: row for row in diff["tables"]["drift_predictions"]}
    kl, flips = numbers["kl"], numbers["flips"]
    click.echo(
        f"Rounded to {BITS} bits: KL {kl['mean']:.2f} ± {kl['mean_stderr']:.2f} nats a token, "
        f"{flips['mean']:.0%} of predictions flip.\n"
        f"At which depth and after which words:\n\n"
        f"  lpp-analyze diff {shlex.quote(str(store))} {shlex.quote(trained)} \\\n"
        f"    {shlex.quote(rounded)}\n"
    )


def _analyze(*arguments: str, quiet: bool = False) -> str:
    """Run `lpp-analyze` in its own process, and exit if it fails.

    quiet: its standard output is returned and not shown.
    """
    out = subprocess.PIPE if quiet else None
    done = subprocess.run(analyze_command(arguments), check=False, stdout=out, text=True)
    if done.returncode:
        sys.exit(done.returncode)  # the command has printed why
    return done.stdout or ""
