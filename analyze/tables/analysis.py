"""What one command asks of a store, computed: a frame for each table of the database."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from lpp.analyze.engine.estimates import Request, token_estimates
from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import METRICS, PAPER_NAMES, chosen, with_free
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.runs.cells import GROUPS
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.select import Selection, select_runs, select_sites
from lpp.analyze.runs.texts import Texts, text_sets, texts_of
from lpp.analyze.tables import entropy, spectra
from lpp.analyze.tables import metrics as metric_table
from lpp.analyze.tables.flags import RANKS, flags, metric_flags
from lpp.analyze.tables.profile import RANKS as RANK_COLUMNS
from lpp.analyze.tables.profile import Aggregation, aggregate
from lpp.analyze.tables.run_rows import prompt_rows, run_row
from lpp.store.commands.progress import SILENT, Progress

ErrorSites = Literal["none", "final", "all"]
"""Sites at which errors are computed; final: at `final`, or at the deepest site chosen."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was computed of a store: one frame per table of the database but `profiles`."""

    runs: pl.DataFrame
    prompts: pl.DataFrame
    spectra: pl.DataFrame
    entropy: pl.DataFrame
    metrics: pl.DataFrame
    """Metrics other than those of `spectra`, with flags."""
    computed: frozenset[str]
    """Names of the metrics of `spectra` that were computed."""
    texts: Mapping[str, Texts]
    """By run."""
    left_out: tuple[str, ...]
    """What of the selected runs took no part, since it is not committed: one line each."""

    def profiles(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """One row per run, context, number of prompts and site, with flags.

        Each metric is a column with the prefix it came from and its error, as `aggregate` gives
        them.
        """
        keys = ["run", "context", "n_prompts"]
        floors = aggregate(
            self.entropy, keys, entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes
        ).rename({"prefixes": "scheduled"})
        found = aggregate(
            self.spectra, [*keys, "site"], entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes
        ).join(floors, on=keys, how="left", maintain_order="left")
        found = _of_whole_schedules(found).drop("scheduled")
        aside = self.spectra.select(*keys, "n_quarantined").unique()
        found = found.join(aside, on=keys, how="left", maintain_order="left")
        return self._flagged(found, drop_prefixes).join(
            self.runs.select("run", "model", "corpus", "prompt_set"),
            on="run",
            how="left",
            maintain_order="left",
        )

    def _flagged(self, found: pl.DataFrame, dropped: Collection[int]) -> pl.DataFrame:
        keys = ["run", "context", "n_prompts"]
        kept = ~pl.col("prefix").is_in(list(dropped))
        ranks = self.spectra.filter(kept).rows_by_key([*keys, "site"], named=True)
        ends = self.entropy.filter(kept).rows_by_key(keys, named=True)
        runs = self.runs.rows_by_key("run", named=True, unique=True)
        beside = prompt_sets(found, self.texts)
        marks = []
        for row in found.iter_rows(named=True):
            key = (row["run"], row["context"], row["n_prompts"])
            marks.append(
                flags(
                    row,
                    ranks[*key, row["site"]],
                    # `rows_by_key` leaves the key columns out of the rows.
                    [{**end, "n_prompts": key[2]} for end in ends[key]],
                    runs[key[0]],
                    computed=self.computed.intersection(RANKS),
                    prompt_sets=beside[key[1:]],
                )
            )
        return found.with_columns(pl.Series("flags", marks, dtype=pl.List(pl.String)))


def analyze(
    url: Url,
    selection: Selection,
    *,
    metrics: Sequence[str] = ("paper",),
    errors: ErrorSites = "final",
    groups: int = GROUPS,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Analysis:
    """Compute what `selection` asks of the store at `url`; what was computed before is read.

    metrics: names or patterns; `paper` stands for the paper's. Those of the paper that need
    nothing more are computed with any others. errors: the sites at which the jackknife over
    `groups` groups of prompts runs; an effective rank costs it as many solves as there are groups.
    progress: advances by one for each run and site. executor: who computes what is of a site.
    What the logits of some prefix would tell, and nobody captured, is null (`uncaptured_lines`);
    metrics that a package is missing for are not there (`metrics.unavailable`).
    Raises InputError for a selection the store does not hold, FormatError for altered bytes.
    """
    views, incomplete = select_runs(url, selection)
    sites = select_sites(views, selection)
    declared = with_free(chosen(metrics))
    keys = spectra.all_keys(views, selection.contexts, selection.prompts)
    keys = keys.filter(pl.col("site").is_in(sites))
    ranks = [pl.DataFrame(schema=spectra.SCHEMA)]
    others = [pl.DataFrame(schema=metric_table.SCHEMA)]
    of_sites = [metric for metric in declared if metric.needs != "tokens"]
    for of_ranks, of_others in _site_frames(
        url, keys, of_sites, errors=errors, groups=groups, executor=executor
    ):
        ranks.append(of_ranks)
        others.append(of_others)
        progress.advance()
        progress.note(f"{of_ranks.item(0, 'run')} {of_ranks.item(0, 'site')}")
    of_tokens = [metric for metric in declared if metric.needs == "tokens"]
    request = _request(of_tokens, groups if errors != "none" else 0)
    others += _logit_frames(views, keys, request)
    ends = entropy.frames(
        url,
        entropy.all_keys(views, selection.contexts, selection.prompts),
        frozenset(entropy.SCHEMA),
    )
    runs = pl.DataFrame([run_row(view) for view in views], infer_schema_length=None)
    of_spectra = pl.concat(ranks)
    of_entropy = pl.concat([pl.DataFrame(schema=entropy.SCHEMA), *ends])
    texts = texts_of(views)
    return Analysis(
        runs=runs,
        prompts=pl.concat([prompt_rows(view) for view in views]),
        spectra=of_spectra,
        entropy=of_entropy,
        metrics=flagged_metrics(pl.concat(others), of_spectra, of_entropy, runs, texts),
        computed=frozenset(metric.name for metric in declared).intersection(PAPER_NAMES),
        texts=texts,
        left_out=tuple(incomplete),
    )


def _site_frames(
    url: Url,
    keys: pl.DataFrame,
    metrics: Sequence[Metric[Any]],
    *,
    errors: ErrorSites,
    groups: int,
    executor: Executor,
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Rows of the spectra table and of the metrics table, for each run and site of `keys`."""
    rest = [metric for metric in metrics if metric.name not in PAPER_NAMES]
    deepest = keys.group_by("run").agg(pl.col("site").last())  # sites come in depth order
    parts = list(spectra.by_site(url, keys))
    work = []
    for view, cache, of_site in parts:
        here = deepest.filter(run=view.run.id).item(0, "site") == of_site.item(0, "site")
        sure = errors == "all" or (errors == "final" and here)
        work.append(spectra.work(view, cache, of_site, _request(metrics, groups if sure else 0)))
    for (view, _, of_site), found in zip(parts, executor.estimates(work), strict=True):
        there = [m for m in rest if m.needs != "rows" or view.run.plan.keeps_rows]
        yield (
            spectra.frame(of_site, found),
            metric_table.frame(metric_table.crossed(of_site, there), found),
        )


def _of_whole_schedules(found: pl.DataFrame) -> pl.DataFrame:
    """Ranks null where moments told only of a part of the schedule: that is another quantity."""
    whole = pl.col("prefixes").list.len() == pl.col("scheduled").list.len()
    ranks = [
        name
        for rank in RANK_COLUMNS
        for name in (rank, f"{rank}_prefix", *error_names(rank))
        if name in found.columns
    ]
    return found.with_columns(pl.when(whole).then(pl.col(name)).alias(name) for name in ranks)


def _logit_frames(
    views: Sequence[RunView], keys: pl.DataFrame, request: Request
) -> Iterator[pl.DataFrame]:
    """Rows of the metrics table that token statistics make, for each run."""
    for view in views if request.metrics else ():
        logits = metric_table.of_logits(keys.filter(run=view.run.id))
        found = token_estimates(view, set(spectra.cells(logits)), request)
        yield metric_table.frame(metric_table.crossed(logits, request.metrics), found)


def _request(metrics: Sequence[Metric[Any]], groups: int) -> Request:
    """All of `metrics`, each with an error if there are `groups`."""
    errors = [metric.name for metric in metrics] if groups else []
    return Request(metrics=metrics, errors=errors, groups=groups)


def prompt_sets(found: pl.DataFrame, texts: Mapping[str, Texts]) -> dict[Any, list[str]]:
    """Names of the texts behind the rows of each context and number of prompts."""
    pairs = found.select("context", "n_prompts", "run").unique(maintain_order=True)
    return {
        key: [*text_sets({run: texts[run] for run in part["run"]}, part.item(0, 1)).values()]
        for key, part in pairs.partition_by(["context", "n_prompts"], as_dict=True).items()
    }


def flagged_metrics(
    found: pl.DataFrame,
    ranks: pl.DataFrame,
    ends: pl.DataFrame,
    runs: pl.DataFrame,
    texts: Mapping[str, Texts],
) -> pl.DataFrame:
    """`found`, of the metrics table, with its flags."""
    keys = ["run", "context", "prefix", "n_prompts"]
    of_sites = ranks.rows_by_key([*keys, "site"], named=True, unique=True, include_key=True)
    of_ends = ends.rows_by_key(keys, named=True, unique=True, include_key=True)
    ratios = _ratios(found, ranks)
    of_runs = runs.rows_by_key("run", named=True, unique=True)
    beside = prompt_sets(found, texts)
    marks = []
    for row in found.iter_rows(named=True):
        key = tuple(row[name] for name in keys)
        marks.append(
            metric_flags(
                row,
                of_sites.get((*key, row["site"])),
                of_ends[key],
                of_runs[row["run"]],
                ratio=ratios.get((*key, row["site"], METRICS[row["metric"]].ratio)),
                prompt_sets=beside[row["context"], row["n_prompts"]],
            )
        )
    return found.with_columns(pl.Series("flags", marks, dtype=pl.List(pl.String)))


def _ratios(found: pl.DataFrame, ranks: pl.DataFrame) -> dict[tuple[Any, ...], float | None]:
    """Every participation ratio by keys, site and name: of `spectra`, and of the metrics table."""
    keys = ["run", "context", "prefix", "n_prompts", "site"]
    of_metrics = found.filter(pl.col("metric").str.ends_with("participation_ratio"))
    rows = of_metrics.select(*keys, "metric", "value").rows()
    plain = ranks.select(*keys, pl.lit("participation_ratio"), "participation_ratio").rows()
    return {row[:-1]: row[-1] for row in (*plain, *rows)}
