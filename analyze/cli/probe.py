"""`lpp-analyze probe`: whether rows predict a label, and what else does."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpp.analyze.cli.options import page_options, trust_option
from lpp.analyze.questions import LabelProbeSettings, ProbeGateSettings, ProbeTestSettings
from lpp.store.terminal.completion import complete_runs
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.terminal.options import run_argument, taken, with_options
from lpp.store.terminal.progress import progress

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply


@click.command(cls=LppCommand)
@click.argument("store")
@run_argument
@click.option(
    "--label",
    required=True,
    metavar="FIELD[=VALUE]",
    help="Predict this field of the prompts: classes or numbers; or VALUE against all others. Also "
    "token.FIELD of tokens, and right of the items of --task.",
)
@with_options(LabelProbeSettings)
@click.option(
    "--against",
    metavar="RUN_B",
    shell_complete=complete_runs,
    help="Say whether the probe still serves on the rows of RUN_B, of the same prompts.",
)
@click.option(
    "--test-on",
    metavar="RUN_B",
    shell_complete=complete_runs,
    help="Test the probe on the prompts of RUN_B, with labels of their own.",
)
@with_options(ProbeTestSettings)
@with_options(ProbeGateSettings)
@click.option(
    "--direction",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the probe of the best site, or the only one of --sites, to FILE, as safetensors.",
)
@trust_option
@page_options()
@debug_option
def probe(
    *,
    store: str,
    run: str | None,
    label: str,
    against: str | None,
    test_on: str | None,
    direction: Path | None,
    **options: Any,
) -> "Reply":
    """Fit linear probes of a label of prompts, beside controls.

    Prompts carry fields from their corpus (`lpp-capture run --fields`), or `lpp-capture label` adds
    them; --task takes evaluated items. A probe is ridge logistic regression, for a number ridge
    regression; of several classes each is told from the rest. Every score is of a probe that saw
    other folds alone; columns are standardised, and the strength is chosen, inside the fold.

    The same is done with controls: length, mean surprisal, counts of tokens, and the rows of embed.
    Each site has its gain over the best control, paired, with an interval, and q over all sites. If
    length, or another control, predicts the label as well, the first line says so. Labels are also
    shuffled, by cluster; the difference of means and random directions stand beside.

    --group keeps the prompts of one author or source in one fold. --cluster does too, and computes
    errors by cluster. The tables `probes`, `probe_scores` and `probe_reliability` of the database
    hold the numbers.

    With --against RUN_B or --test-on RUN_B, which may be STORE::RUN, the probe of RUN is compared
    with a reference on the same prompts: with itself on the rows of RUN, or with RUN_B's own probe.
    The verdict is PASS, THRESHOLD STALE (the order of the prompts holds, and decisions do not),
    SCORER DEGRADED, NOT SERVING (one of these two, and the data do not tell which) or INCONCLUSIVE.
    With --fail-if, the exit code is 1 for the verdict that it names, and for NOT SERVING; or if the
    interval of a number lies past a limit, as in `lpp-analyze diff`. The table is `probe_tests`.

    \b
        lpp-analyze probe ./lpp --label topic
        lpp-analyze probe ./lpp smol --label topic=news --rows mean --skip-first 2
        lpp-analyze probe ./lpp --label tone --cluster document --format csv
        lpp-analyze probe ./lpp --label token.entity --rows each
        lpp-analyze probe ./lpp --label right --task arc_easy
        lpp-analyze probe ./lpp base --label topic --against int4 \\
            --fail-if degraded --fail-if stale
        lpp-analyze probe ./lpp base --label topic --test-on ./other::base
        lpp-analyze probe ./lpp --label topic --sites block.9 \\
            --direction topic.safetensors
    """
    from lpp.analyze.probes.answer import against_answer, probe_answer

    settings = taken(LabelProbeSettings, options)
    tests, gate = taken(ProbeTestSettings, options), taken(ProbeGateSettings, options)
    _check_usage(against, test_on, direction, tests, gate)
    other = against or test_on
    with progress("Probes", 0, "sites") as bar:
        if other is None:
            return probe_answer(store, label, run, settings, direction=direction, progress=bar)
        return against_answer(
            store,
            label,
            (run, other),
            settings=settings,
            tests=tests,
            gate=gate,
            own_labels=test_on is not None,
            progress=bar,
        )


def _check_usage(
    against: str | None,
    test_on: str | None,
    direction: Path | None,
    tests: ProbeTestSettings,
    gate: ProbeGateSettings,
) -> None:
    """Refuse options that do not go together."""
    if sum(given is not None for given in (against, test_on, direction)) > 1:
        raise click.UsageError("--against, --test-on and --direction: give one of them.")
    default = ProbeTestSettings()
    needs = (
        ("--rerun", tests.rerun is not None, "--against", against),
        ("--test-label", tests.test_label is not None, "--test-on", test_on),
        ("--shared-prompts", tests.shared_prompts != default.shared_prompts, "--test-on", test_on),
        ("--site-pair", bool(tests.site_pairs), "--against or --test-on", against or test_on),
        ("--margin", tests.margin != default.margin, "--against or --test-on", against or test_on),
        ("--fail-if", bool(gate.conditions), "--against or --test-on", against or test_on),
    )
    for option, is_given, other, value in needs:
        if is_given and value is None:
            raise click.UsageError(f"{option} goes with {other}.")
