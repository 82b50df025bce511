"""`lpp-capture demo`: a packaged model beside its untrained twin, in minutes on two cores."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.load import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec

PROMPTS: Final = 100
CONTEXT: Final = 200
TWIN_SEED: Final = 0

REPORT: Final = "report.html"
"""Name of the report, in the store's directory."""

CHARTS: Final = ("altair", "vl_convert")
"""What the report draws with: the extra `report`."""

QUERIES: Final = (
    "SELECT run, entropy_floor, participation_ratio, effective_rank\n     FROM profiles",
    "SELECT depth, site, effective_rank, top_share FROM spectra\n"
    "     WHERE prefix = context AND run NOT LIKE '%untrained%' ORDER BY depth",
    "SELECT run, avg(entropy) AS nats,\n"
    "     avg((next_rank = 1)::INT) AS top1_accuracy FROM token_stats GROUP BY run",
)
"""Three questions to go on with."""


def demo_request(untrained_seed: int | None) -> CaptureRequest:
    """100 passages of 200 tokens, every site, every logit statistic."""
    return CaptureRequest(
        model=ModelSpec(id=str(packaged_model()), untrained_seed=untrained_seed),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(prompts=PROMPTS),
        context=CONTEXT,
    )


def run_demo(root: Path) -> None:
    """Capture both into `root`, profile them, write the report, and say what to ask next."""
    for seed in (None, TWIN_SEED):
        capture_into(root, demo_request(seed))
    _analyze("profile", str(root))
    report = root.resolve() / REPORT
    click.echo()
    if all(map(importlib.util.find_spec, CHARTS)):
        _analyze("report", str(root), "--output", str(report), quiet=True)
        click.echo(f"The report, for a browser: {report}")
    else:
        click.echo(
            "For a report: pip install 'lpp-engine[report]', then: "
            f"lpp-analyze report {shlex.quote(str(root))}"
        )
    click.echo(f"The store: {root.resolve()}\nThree questions to go on with:")
    for query in QUERIES:
        click.echo(f'\n  lpp-sql {shlex.quote(str(root))} \\\n    "{query}"')


def _analyze(*words: str, quiet: bool = False) -> None:
    """Run a command of the analysis: capture knows nothing of it, and it needs no torch."""
    command = [sys.executable, "-m", "lpp.analyze.cli.command", *words]
    out = subprocess.DEVNULL if quiet else None
    if code := subprocess.run(command, check=False, stdout=out).returncode:
        sys.exit(code)  # it has said why
