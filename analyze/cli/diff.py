"""`lpp-analyze diff`: what changed between two models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import ERROR_SITES, jobs_option, names
from lpp.store.commands.console import debug_option
from lpp.store.commands.progress import progress
from lpp.store.errors import LppError

if TYPE_CHECKING:
    from lpp.analyze.drift.drift import Drift

FORMATS = ("text", "json", "md")
_SUFFIXES = {"json": "json", "md": "md"}


@click.command()
@click.argument("store")
@click.argument("run_a")
@click.argument("run_b")
@click.option("--sites", callback=names, metavar="NAME,...", help="Sites.", default="*")
@click.option(
    "--skip-first",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Leave out the first N tokens of each prompt, often attention sinks.",
)
@click.option("--prompts", type=click.IntRange(min=1), help="The first so many; all by default.")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of the predictions, draw N tokens; all by default.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="For --tokens.")
@click.option(
    "--errors",
    type=click.Choice(ERROR_SITES),
    help="Sites whose CKA, overlap and ranks get an error: 11 times the products. Default: "
    "final, or all where --fail-if needs them.",
)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 where this is met, such as 'kl.mean > 0.01'; may be repeated.",
)
@click.option(
    "--strict", is_flag=True, help="With --fail-if: the number decides, not its interval."
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: OUTPUT's, or text.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write instead of standard output.",
)
@jobs_option
@debug_option
def diff(
    *,
    store: str,
    run_a: str,
    run_b: str,
    sites: tuple[str, ...],
    skip_first: int,
    prompts: int | None,
    tokens: int | None,
    seed: int,
    errors: Any,
    conditions: tuple[str, ...],
    strict: bool,
    form: str | None,
    output: Path | None,
    jobs: int | None,
) -> int:
    """Show what changed from RUN_A to RUN_B of STORE: predictions, sites, tokens.

    Two models over the same token ids: KL and other divergences over the full vocabulary, flips,
    perplexity, and for each site distance, CKA and ranks; with errors over prompts. It says how
    much changed, and where, not whether that matters. A run is named by as much of its id as
    tells it from others; STORE::RUN is one of another store.

    With --fail-if the exit code is 1 where a condition is met: a name, >, <, >= or <=, and a
    number. The whole interval must be past it. Names: kl, kl_reverse, js, tv, next_logprob, each
    with .mean, .median, .p99 or .max behind it; flips, top10, log_perplexity, entropy; and of any
    site, or of one such as cka.block.12: relative_distance, cosine, cka, overlap,
    participation_ratio, effective_rank.

    \b
        lpp-analyze diff ./lpp base tuned
        lpp-analyze diff ./lpp base ./other::tuned --skip-first 2 --tokens 20000
        lpp-analyze diff ./lpp base int4 --format md -o drift.md \\
            --fail-if 'kl.mean > 0.01' --fail-if 'flips > 0.02'
    """
    from lpp.analyze.drift.drift import drift, n_steps
    from lpp.analyze.drift.gate import check_conditions, needs_errors, parse_condition, verdict
    from lpp.analyze.drift.pair import pair_of, require_rows, run_of
    from lpp.analyze.drift.predictions import why_no_logits
    from lpp.analyze.drift.sites import common_sites
    from lpp.analyze.drift.worst import worst_tokens
    from lpp.analyze.report.report import check_output
    from lpp.analyze.text import drift as text
    from lpp.sql.results.output import text_output

    if strict and not conditions:
        raise click.UsageError("--strict says how --fail-if decides: give one.")
    if output is not None:
        check_output(output)
    form = form or ("text" if output is None else _SUFFIXES.get(output.suffix[1:].lower(), "text"))
    gate = [parse_condition(condition) for condition in conditions]
    pair = pair_of(run_of(store, run_a).run, run_of(store, run_b).run, prompts)
    require_rows(pair)
    chosen = common_sites(pair, sites)
    check_conditions(gate, sites=chosen, no_logits=why_no_logits(pair))
    if errors is None:
        errors = "all" if not strict and needs_errors(gate, chosen) else "final"
    steps = n_steps(pair, chosen, first_position=skip_first, tokens=tokens)
    with progress("Drift", steps, "tokens") as bar:
        found = drift(
            pair,
            sites=chosen,
            first_position=skip_first,
            tokens=tokens,
            seed=seed,
            errors=errors,
            jobs=jobs,
            progress=bar,
        )
    _keep(found)
    verdicts = [
        verdict(condition, found.predictions, found.sites, strict=strict) for condition in gate
    ]
    if form == "json":
        shown = text.as_json(found, verdicts)
    else:
        shown = text.FORMATS[form](found, worst_tokens(found), verdicts)
    with text_output(output) as stream:
        stream.write(shown)
    if output is not None:
        click.echo(text.as_gate(verdicts), nl=False)
        click.echo(output)
    return int(any(one.failed for one in verdicts))


def _keep(found: "Drift") -> None:
    """Put the comparison into the database of its store; where that cannot be, say so in a line."""
    from lpp.analyze.drift.tables import stores, write_drift

    try:
        write_drift(found)
    except LppError as error:
        click.echo(f"The comparison is not in the database: {error}", err=True)
    if len(stores(found.pair)) > 1:
        click.echo("A and B lie in two stores: the comparison is in no database.", err=True)
