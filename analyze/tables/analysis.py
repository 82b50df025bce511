"""What one command asks of a store, computed: a frame for each table of the database."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from lpp.analyze.engine.estimates import Request
from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import PAPER_NAMES, chosen, with_free
from lpp.analyze.numerics.jackknife import error_names
from lpp.analyze.runs.cells import GROUPS
from lpp.analyze.runs.comparable import prompt_sets, with_prompt_sets
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.select import Selection, select_among, select_sites
from lpp.analyze.tables import entropy, spectra
from lpp.analyze.tables import metrics as metric_table
from lpp.analyze.tables.facts import metric_facts, profile_facts
from lpp.analyze.tables.flags import flags_of, flags_of_any
from lpp.analyze.tables.jackknife import without_groups
from lpp.analyze.tables.profile import ENTROPIES, RANKS, Aggregation, aggregate
from lpp.analyze.tables.run_rows import prompts_frame, run_row
from lpp.store.commands.progress import SILENT, Progress

ErrorSites = Literal["none", "final", "all"]
"""Sites at which errors are computed; final: at `final`, or at the deepest site chosen."""

_SETTING = ("run", "context", "n_prompts")
BESIDE = ("context", "n_prompts")
"""Runs that agree in these are shown side by side."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was computed of a store: one frame per table of the database but `profiles`."""

    runs: pl.DataFrame
    prompts: pl.DataFrame
    spectra: pl.DataFrame
    entropy: pl.DataFrame
    metrics: pl.DataFrame
    """Metrics other than those of `spectra`, with flags."""
    without_groups: tuple[pl.DataFrame, ...]
    """Numbers by prefix again without each group of prompts, as the function of that name."""
    computed: frozenset[str]
    """Names of the metrics of `spectra` that were computed."""
    prompt_sets: pl.DataFrame
    """Which runs of the store are comparable, at each number of prompts."""
    left_out: tuple[str, ...]
    """What of the selected runs took no part, since it is not committed: one line each."""

    def profiles(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """One row per run, context, number of prompts, first position and site, with flags.

        Each metric is a column with the prefix it came from and its error, as `aggregate` gives
        them. The entropy is the same whatever the first position.
        """
        found = self.aggregated(entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes)
        found = with_prompt_sets(found, self.prompt_sets, beside=BESIDE)
        facts = self.facts(found, drop_prefixes=drop_prefixes)
        return found.drop("n_prompt_sets").with_columns(flags=flags_of_any(facts.values()))

    def aggregated(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """The same without flags and prompt sets."""

        def of_each(frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
            return aggregate(frame, by, entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes)

        floors = of_each(self.entropy, _SETTING).rename({"prefixes": "scheduled"})
        found = of_each(self.spectra, [*_SETTING, "first_position", "site"])
        aside = self.spectra.select(*_SETTING, "n_quarantined").unique()
        about = self.runs.select("run", "model", "corpus")
        for frame, on in ((floors, _SETTING), (aside, _SETTING), (about, ["run"])):
            found = found.join(frame, on=on, how="left", maintain_order="left")
        return _of_whole_schedules(found).drop("scheduled")

    def facts(
        self, profiles: pl.DataFrame, *, drop_prefixes: Collection[int] = ()
    ) -> dict[str, pl.DataFrame]:
        """What flags are told of each metric of `profiles`, by metric, in their order."""
        kept = ~pl.col("prefix").is_in(list(drop_prefixes))
        return {
            metric: profile_facts(
                profiles,
                metric,
                spectra=self.spectra.filter(kept),
                entropy=self.entropy.filter(kept),
                runs=self.runs,
                computed=self.computed,
            )
            for metric in (*ENTROPIES, *RANKS)
        }


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
    What the logits of some prefix would tell, and nobody captured, is null (`uncaptured_lines`).
    Raises InputError for a selection the store does not hold, FormatError for altered bytes.
    """
    every = views(url)
    some, incomplete = select_among(url, every, selection)
    return analyze_views(
        some,
        selection,
        comparable_among=every,
        left_out=incomplete,
        metrics=metrics,
        errors=errors,
        groups=groups,
        progress=progress,
        executor=executor,
    )


def analyze_views(
    some: Sequence[RunView],
    selection: Selection,
    *,
    comparable_among: Sequence[RunView],
    left_out: Sequence[str] = (),
    metrics: Sequence[str] = ("paper",),
    errors: ErrorSites = "final",
    groups: int = GROUPS,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Analysis:
    """The same of the runs `some`, which are chosen already.

    comparable_among: every run of the store, whatever is selected, so that prompt sets have the
    same name in the rows of every command.
    """
    sites = select_sites(some, selection)
    declared = with_free(chosen(metrics))
    keys = spectra.all_keys(some, selection).filter(pl.col("site").is_in(sites))
    of_sites = [metric for metric in declared if metric.needs != "tokens"]
    of_tokens = [metric for metric in declared if metric.needs == "tokens"]
    ranks = [pl.DataFrame(schema=spectra.SCHEMA)]
    others = [pl.DataFrame(schema=metric_table.SCHEMA)]
    without = []
    request = site_requests(keys, [*of_sites, *spectra.sink_metrics()], errors, groups)
    rest = [m for m in of_sites if m.name not in spectra.SCHEMA]
    for view, of_site, found in spectra.site_numbers(some, keys, request, executor):
        there = metric_table.crossed(of_site, metric_table.held(view, rest))
        ranks.append(spectra.frame(of_site, found))
        others.append(metric_table.frame(there, found))
        without.append(without_groups(of_site, found))
        progress.advance()
        progress.note(f"{view.run.id} {of_site.item(0, 'site')}")
    others += _logit_frames(some, selection, _request(of_tokens, groups * (errors != "none")))
    of_logits = entropy.all_keys(some, selection)
    ends = entropy.frames(some, of_logits, frozenset(entropy.SCHEMA), groups=groups)
    runs = pl.DataFrame([run_row(view) for view in some], infer_schema_length=None)
    of_spectra = pl.concat(ranks)
    by_prefix = pl.concat([pl.DataFrame(schema={**entropy.SCHEMA, **entropy.WITHOUT}), *ends])
    of_entropy = by_prefix.select(*entropy.SCHEMA)
    sets = prompt_sets(comparable_among, of_entropy["n_prompts"].unique())
    of_metrics = with_prompt_sets(pl.concat(others), sets, beside=BESIDE)
    facts = metric_facts(of_metrics, spectra=of_spectra, entropy=of_entropy, runs=runs)
    return Analysis(
        runs=runs,
        prompts=prompts_frame(some),
        spectra=of_spectra,
        entropy=of_entropy,
        metrics=of_metrics.select(*metric_table.SCHEMA.names(), flags_of(facts)),
        without_groups=(*without, entropy.without_groups(by_prefix)),
        computed=frozenset(metric.name for metric in declared).intersection(PAPER_NAMES),
        prompt_sets=sets,
        left_out=tuple(left_out),
    )


def site_requests(
    keys: pl.DataFrame, metrics: Sequence[Metric[Any]], errors: ErrorSites, groups: int
) -> Callable[[pl.DataFrame], Request]:
    """What to compute of each site of `keys`: `metrics`, with errors at the sites that get them."""
    deepest = dict(keys.group_by("run").agg(pl.col("site").last()).rows())  # they come by depth

    def request(of_site: pl.DataFrame) -> Request:
        run, site = of_site.select("run", "site").row(0)
        sure = errors == "all" or (errors == "final" and site == deepest[run])
        return _request(metrics, groups if sure else 0)

    return request


def _request(metrics: Sequence[Metric[Any]], groups: int) -> Request:
    """All of `metrics`, each with an error if there are `groups`."""
    errors = [metric.name for metric in metrics] if groups else []
    return Request(metrics=metrics, errors=errors, groups=groups)


def _logit_frames(
    some: Sequence[RunView], selection: Selection, request: Request
) -> Iterator[pl.DataFrame]:
    """Rows of the metrics table that token statistics make."""
    for view in some if request.metrics else ():
        keys = metric_table.of_logits(view, selection)
        yield from metric_table.logit_frames(
            [view], metric_table.crossed(keys, request.metrics), request
        )


def _of_whole_schedules(found: pl.DataFrame) -> pl.DataFrame:
    """Ranks null where moments told only of a part of the schedule: that is another quantity."""
    lacking = pl.col("scheduled").list.set_difference("prefixes").list.max()
    whole = lacking.is_null() | (lacking <= pl.col("first_position"))
    ranks = [
        name
        for rank in RANKS
        for name in (rank, f"{rank}_prefix", *error_names(rank))
        if name in found.columns
    ]
    return found.with_columns(pl.when(whole).then(pl.col(name)).alias(name) for name in ranks)
