"""`lpp-capture demo`: a packaged model beside its untrained twin, in minutes on two cores."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.machine import require
from lpp.capture.plan.options import STORE
from lpp.store.commands.console import debug_option
from lpp.store.objects.place import Place

if TYPE_CHECKING:
    from lpp.capture.plan.request import CaptureRequest

PROMPTS: Final = 100
CONTEXT: Final = 200
UNTRAINED_SEED: Final = 0

REPORT: Final = "report.html"
"""File name of the report, in the store's directory."""

CHARTS: Final = ("altair", "vl_convert")
"""Packages that the report needs: the extra `report`."""

QUERIES: Final = (
    "SELECT run, entropy_floor, participation_ratio, effective_rank\n     FROM profiles",
    "SELECT depth, site, effective_rank, top_share FROM spectra\n"
    "     WHERE prefix = context AND run NOT LIKE '%untrained%' ORDER BY depth",
    "SELECT run, avg(entropy) AS nats,\n"
    "     avg((next_rank = 1)::INT) AS top1_accuracy FROM token_stats GROUP BY run",
)
"""Three questions to try next."""


@click.command()
@click.option(
    "--store",
    default="demo",
    show_default=True,
    type=STORE,
    help="Directory to write.",
)
@debug_option
def demo(store: Place) -> None:
    """Capture a small packaged model and its untrained twin, and compare them.

    \b
    Example:
      lpp-capture demo --store ./demo

    SmolLM2-135M-Instruct and the same architecture with random weights read 100
    English passages of 200 tokens. About a minute on two cores; no download.
    """
    if not isinstance(store, Path):
        raise click.UsageError("--store: the demo writes a directory of this machine.")
    model = packaged_model()  # before torch is imported, which takes seconds
    require("torch", "transformers", "safetensors", "gguf", "accelerate")
    from lpp.capture.engine.run import capture_into

    for seed in (None, UNTRAINED_SEED):
        capture_into(store, demo_request(model, seed))
    _analyze("profile", str(store))
    report = store.resolve() / REPORT
    click.echo()
    if all(map(importlib.util.find_spec, CHARTS)):
        _analyze("report", str(store), "--output", str(report), quiet=True)
        click.echo(f"The report, for a browser: {report}")
    else:
        click.echo(
            "For a report: pip install 'lpp-engine[report]', then: "
            f"lpp-analyze report {shlex.quote(str(store))}"
        )
    click.echo(f"The store: {store.resolve()}\nThree questions to try next:")
    for query in QUERIES:
        click.echo(f'\n  lpp-sql {shlex.quote(str(store))} \\\n    "{query}"')


def demo_request(model: Path, untrained_seed: int | None) -> "CaptureRequest":
    """100 passages of 200 tokens, every site, every logit statistic."""
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, CorpusSpec

    return CaptureRequest(
        model=ModelSpec(id=str(model), untrained_seed=untrained_seed),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(prompts=PROMPTS),
        context=CONTEXT,
    )


def _analyze(*arguments: str, quiet: bool = False) -> None:
    """Run `lpp-analyze`, in its own process: `capture` may not import `analyze`."""
    command = [sys.executable, "-m", "lpp.analyze.cli.command", *arguments]
    out = subprocess.DEVNULL if quiet else None
    if code := subprocess.run(command, check=False, stdout=out).returncode:
        sys.exit(code)  # the command has printed why
