"""`lpp-capture demo`: a packaged model beside its untrained twin, in minutes on two cores."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from lpp.capture.gguf import packaged_model
from lpp.capture.models import ModelSpec
from lpp.capture.request import CaptureRequest, CorpusSpec
from lpp.capture.run import capture_into
from lpp.capture.selection import Selection

PROMPTS: Final = 100
CONTEXT: Final = 200
TWIN_SEED: Final = 0

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
    """Capture both into `root`, profile them, and say what to ask next."""
    for seed in (None, TWIN_SEED):
        capture_into(root, demo_request(seed))
    # The analysis is a command of its own: capture knows nothing of it, and it needs no torch.
    analysis = [sys.executable, "-m", "lpp.analyze.cli", "profile", str(root)]
    if code := subprocess.run(analysis, check=False).returncode:
        sys.exit(code)  # it has said why
    click.echo(f"\nThe store: {root.resolve()}\nThree questions to go on with:")
    for query in QUERIES:
        click.echo(f'\n  lpp-sql {shlex.quote(str(root))} \\\n    "{query}"')
