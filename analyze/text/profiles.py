"""Profiles as text: side by side at 80 columns."""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import polars as pl

from lpp.analyze.metrics.registry import PAPER_NAMES, PROFILE, RANKS
from lpp.analyze.tables.metrics import LOGITS
from lpp.analyze.tables.profile import Aggregation
from lpp.analyze.text.bars import bar_sections
from lpp.analyze.text.metrics import metric_tables
from lpp.analyze.text.names import NAMELESS, Names, legend
from lpp.analyze.text.text import (
    HEADS,
    HEADS_MEANING,
    SIDE_BY_SIDE,
    Row,
    broken,
    error,
    explained,
    marks,
    number,
    numbered,
    plain_table,
    rendered,
    value_text,
    wrapped,
)

if TYPE_CHECKING:
    from rich.table import Table

_METRICS: Final = {
    "entropy": ("entropy_norm", "entropy"),
    "participation ratio": ("participation_ratio", "participation_ratio_norm"),
    "effective rank": ("effective_rank", "effective_rank_norm"),
}
"""Names of the rows under a heading."""


_FORMAT: Final = "Format: value ± standard error over {over} (prefix)."
_FORMAT_OF_ROWS: Final = f"Format: value, ±standard error over {{over}} below.\n{HEADS_MEANING}"


def as_table(
    profiles: pl.DataFrame,
    *,
    entropy: Aggregation,
    ranks: Aggregation,
    metrics: pl.DataFrame | None = None,
    computed: Collection[str] = PAPER_NAMES,
    bars: bool = False,
    names: Names = NAMELESS,
    cluster: str | None = None,
) -> str:
    """The profiles of each context and number of prompts, within 80 columns.

    metrics: rows of the metrics table to print after them. computed: ranks that were asked for;
    the others have no line. bars: a line and a bar per number, in place of tables. names: of the
    runs; the last lines say which run each name stands for. cluster: field that errors are over.
    """
    out = io.StringIO()
    over = "prompts" if cluster is None else f"prompts, by {cluster}"
    seen = profiles["flags"].explode().to_list()
    seen += metrics["flags"].explode().to_list() if metrics is not None else []
    numbers = numbered([flag for flag in seen if flag is not None])
    setting = ["context", "n_prompts"]
    for group in profiles.partition_by(*setting, "first_position", maintain_order=True):
        rows = list(group.iter_rows(named=True))
        runs, sites = group["run"].unique(maintain_order=True), group["site"].n_unique()
        few = len(runs) <= SIDE_BY_SIDE and sites <= SIDE_BY_SIDE
        form = (_FORMAT if bars or few else _FORMAT_OF_ROWS).format(over=over)
        print(f"{_title(rows[0], entropy, ranks)}\n{form}", file=out)
        if bars:
            out.writelines(bar_sections(rows, _bar_heads(rows, computed), names))
        elif few:
            for site in group["site"].unique(maintain_order=True):
                some = [row for row in rows if row["site"] == site]
                out.write(rendered(_side_by_side(some, computed, names)))
        else:
            out.write(rendered(_one_per_row(rows, computed, numbers, names)))
        if metrics is not None:
            # those of the logits, which skip no position, stand under the first
            first = rows[0]["first_position"]
            of_logits = (pl.col("site") == LOGITS) & (first == profiles["first_position"].min())
            here = metrics.filter(**{name: rows[0][name] for name in setting}).filter(
                (pl.col("first_position") == first) | of_logits
            )
            out.writelines(metric_tables(here, numbers, names))
    out.writelines(wrapped(line) for line in _biases(profiles, names))
    out.write(legend(names, profiles["run"]))
    out.writelines(f"{line}\n" for line in explained(numbers))
    return out.getvalue()


FEW_PROMPTS: Final = 100
"""Of fewer prompts the bias of the floor is printed: of more it is below .005 of ln V."""


def _biases(profiles: pl.DataFrame, names: Names) -> Iterator[str]:
    """A line for each run and setting whose entropy floor is noticeably too low."""
    setting = ["run", "context", "n_prompts"]
    few = (pl.col("n_prompts") < FEW_PROMPTS) & pl.col("entropy_norm_bias").is_not_null()
    for row in profiles.filter(few).unique(setting, maintain_order=True).iter_rows(named=True):
        yield (
            f"{names.get(row['run'], row['run'])}, {row['n_prompts']} prompts, context "
            f"{row['context']}: the least of {len(row['prefixes'])} mean entropies is too low, "
            f"here by about {number(-row['entropy_norm_bias'])} of ln V (bootstrap)."
        )


def _title(row: Row, entropy: Aggregation, ranks: Aggregation) -> str:
    prefixes = ", ".join(str(prefix) for prefix in row["prefixes"])
    first = row["first_position"]
    skipped = f"Ranks of rows from position {first} on; entropy of all.\n" if first else ""
    return (
        f"\nContext {row['context']}, {row['n_prompts']} prompts. Entropy: {entropy} over "
        f"prefixes; ranks: {ranks}.\n{skipped}Prefixes {prefixes}."
    )


def _bar_heads(rows: Sequence[Row], computed: Collection[str]) -> dict[str, str]:
    """What stands above the bars of each metric."""
    sites = {row["site"] for row in rows}
    at = f" at {rows[0]['site']}" if len(sites) == 1 else ""
    return {
        metric: f"{label}{at}, {PROFILE[metric].unit_words}"
        for label, some in _METRICS.items()
        for metric in some
        if not _hidden(metric, computed)
    }


def _hidden(metric: str, computed: Collection[str]) -> bool:
    return metric in RANKS and metric not in computed


def _side_by_side(rows: Sequence[Row], computed: Collection[str], names: Names) -> "Table":
    """Metrics down, runs across, for one site; of three runs each error has a line of its own."""
    made = plain_table()
    parted_by, width = (" ", 20) if len(rows) < SIDE_BY_SIDE else ("\n", 17)
    made.add_column(f"at {rows[0]['site']}", no_wrap=True)
    for row in rows:
        made.add_column(
            broken(names.get(row["run"], row["run"]), width), justify="right", overflow="fold"
        )
    for label, some in _METRICS.items():
        shown = [name for name in some if not _hidden(name, computed)]
        if shown:
            made.add_row(label)
        for metric in shown:
            unit = PROFILE[metric].unit_words
            made.add_row(
                f"  {unit}", *(value_text(row, metric, parted_by=parted_by) for row in rows)
            )
    if len({row["prompt_set"] for row in rows}) > 1:
        made.add_row("prompt set", *(row["prompt_set"][:8] for row in rows))
    if any(row["flags"] for row in rows):
        made.add_row("flags", *("\n".join(row["flags"]) or "none" for row in rows))
    return made


def _one_per_row(
    rows: Sequence[Row], computed: Collection[str], numbers: Mapping[str, int], names: Names
) -> "Table":
    """Runs and sites down, metrics across; errors below, flags by their numbers."""
    made = plain_table()
    made.collapse_padding = True
    made.add_column("run", no_wrap=True)
    made.add_column("site", no_wrap=True)
    metrics = [metric for metric in HEADS if not _hidden(metric, computed)]
    for metric in metrics:
        made.add_column(HEADS[metric], justify="right", no_wrap=True)
    made.add_column("flags", overflow="fold")
    before = None
    for row in rows:
        run = "" if row["run"] == before else broken(names.get(row["run"], row["run"]))
        before = row["run"]
        values = (f"{number(row[m])}\n{error(row[f'{m}_stderr'], '±')}".rstrip() for m in metrics)
        made.add_row(run, row["site"], *values, marks(row["flags"], numbers))
    return made
