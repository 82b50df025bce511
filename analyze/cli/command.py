"""`lpp-analyze`: open a store, compute, print."""

import contextlib

import click

from lpp.analyze.cli.benchmarks import benchmarks, correlate
from lpp.analyze.cli.depth import cka, layers
from lpp.analyze.cli.diff import diff
from lpp.analyze.cli.export import export
from lpp.analyze.cli.items import items
from lpp.analyze.cli.metrics import metrics
from lpp.analyze.cli.probe import probe
from lpp.analyze.cli.profile import profile
from lpp.analyze.cli.publish import index, publish
from lpp.analyze.cli.quickstart import quickstart
from lpp.analyze.cli.report import report
from lpp.store.format.keys import RUNS_KEY
from lpp.store.process.allocator import give_blocks_back
from lpp.store.terminal.console import LppGroup, debug_option, version_option
from lpp.store.terminal.progress import progress
from lpp.store.units import counted


@click.group(cls=LppGroup)
@version_option
@debug_option
def main() -> None:
    """Compute latent performance profiles from a store. No model is needed.

    \b
        lpp-analyze quickstart
        lpp-analyze profile ./lpp
        lpp-analyze layers ./lpp
        lpp-analyze metrics
        lpp-analyze cka ./lpp
        lpp-analyze diff ./lpp RUN_A RUN_B
        lpp-analyze items ./lpp --task arc_easy
        lpp-analyze probe ./lpp --label topic
        lpp-analyze benchmarks add ./lpp results/
        lpp-analyze correlate ./lpp
        lpp-analyze export ./lpp --targets topk -o targets.parquet
        lpp-analyze report ./lpp -o report.html
        lpp-analyze verify ./lpp
        lpp-analyze index ./lpp
        lpp-analyze publish ./lpp --to ./public
    """
    give_blocks_back()


main.add_command(benchmarks)
main.add_command(cka)
main.add_command(correlate)
main.add_command(diff)
main.add_command(export)
main.add_command(index)
main.add_command(items)
main.add_command(layers)
main.add_command(metrics)
main.add_command(probe)
main.add_command(profile)
main.add_command(publish)
main.add_command(quickstart)
main.add_command(report)


@main.command()
@click.argument("store")
@debug_option
def verify(*, store: str) -> int:
    """Compare every byte of STORE with its checksums.

    The exit code is 1 if any byte differs. If the store keeps the unembedding of a model, entropy
    and log_z of 256 tokens of each run are computed again from `final` and compared as well.

    Checksums find accidents; anybody who writes a store can write fitting ones. Commands compute
    numbers again that another user kept in a store, unless you give --trust-kept.

    \b
        lpp-analyze verify ./lpp
    """
    from lpp.analyze.logits.proof import check_logits, logits_problems
    from lpp.store import open_store
    from lpp.store.errors import FormatError
    from lpp.store.runs.verify import verify_root
    from lpp.store.scores.scores import verify_scores
    from lpp.store.shared.verify import verify_shared

    opened = open_store(store)
    beside_runs = verify_root(opened.path) + verify_scores(opened.path)
    beside_runs += verify_shared(opened.path)
    for line in beside_runs:
        click.echo(str(line))
    problems, names = len(beside_runs), opened.names
    with progress("Verify", len(opened.runs), "runs") as bar:
        for run in opened.runs.values():
            run_problems = run.verify()
            for problem in run_problems:
                click.echo(f"{RUNS_KEY}/{run.id}/{problem}")
            bar.advance()
            name = names.get(run.id, run.id)
            bar.note(f"{name} {'has problems' if run_problems else 'is as it was committed'}")
            # of damage, and of what this user may not read, which the lines above say
            with contextlib.suppress(FormatError, PermissionError):
                check = check_logits(run)
                for problem in logits_problems(run, check):
                    click.echo(str(problem))
                    run_problems.append(problem)
                if check is not None:
                    bar.note(f"{name}: {check}")
            problems += len(run_problems)
    if not problems:
        sites = sum(len(run.sites) for run in opened.runs.values())
        click.echo(
            f"{counted(len(opened.runs), 'run')}, {counted(sites, 'site')}, every byte as committed"
        )
    else:
        click.echo(
            f"{counted(problems, 'problem')}. `lpp-capture repair {store}` "
            "computes damaged shards again and removes damaged directories that runs share; "
            "`lpp-capture run` resumes what was not captured yet, and writes those again and a "
            "run's own record, plan and prompts. "
            "Delete a damaged source under benchmarks/ and add its scores again.",
            err=True,
        )
    return int(problems > 0)


if __name__ == "__main__":
    main()
