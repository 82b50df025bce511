"""`lpp-analyze`: open a store, compute, print."""

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
from lpp.analyze.cli.verify import verify
from lpp.store.process.allocator import give_blocks_back
from lpp.store.terminal.console import LppGroup, debug_option, version_option


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
main.add_command(verify)


if __name__ == "__main__":
    main()
