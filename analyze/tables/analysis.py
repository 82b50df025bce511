"""Compute the numbers of a selection: a frame for each table of the database."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from lpp.analyze.engine.estimates import Request
from lpp.analyze.engine.executor import LOCAL, Executor
from lpp.analyze.metrics.metric import Metric
from lpp.analyze.metrics.registry import PAPER_NAMES, RANKS, chosen, with_free
from lpp.analyze.quantities.flags import flags_of, flags_of_any
from lpp.analyze.quantities.tables import BESIDE
from lpp.analyze.questions import Aggregation, ErrorSites, ProfileSettings, Selection
from lpp.analyze.runs.comparable import prompt_sets, with_prompt_sets
from lpp.analyze.runs.given import resolved
from lpp.analyze.runs.groups import Groups, clusters_of
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.named import names_of, plans_of
from lpp.analyze.runs.select import (
    check_dropped,
    n_sites,
    select_among,
    select_sites,
    shortfalls,
)
from lpp.analyze.tables import entropy, spectra
from lpp.analyze.tables import metrics as metric_table
from lpp.analyze.tables.facts import metric_facts, profile_facts, with_lossy
from lpp.analyze.tables.jackknife import jackknife_rows, without_groups
from lpp.analyze.tables.profile import ENTROPIES, aggregate
from lpp.analyze.tables.result import TableResult, frame_method
from lpp.analyze.tables.run_rows import run_row
from lpp.store.format.run_names import find_run, first_named
from lpp.store.progress import SILENT, Progress

_SETTING = ("run", "context", "n_prompts")


@dataclass(frozen=True, slots=True, repr=False)
class Analysis(TableResult):
    """The numbers of a selection: one frame per table of the database, except `profiles`."""

    runs: pl.DataFrame
    spectra: pl.DataFrame
    entropy: pl.DataFrame
    metrics: pl.DataFrame
    """Metrics other than those of `spectra`, with flags."""
    without_groups: tuple[pl.DataFrame, ...]
    """Numbers by prefix without each group of prompts, as of the function `without_groups`."""
    floor_bias: pl.DataFrame
    """The bias of the entropy floor over all prefixes of a context, by `_SETTING`."""
    computed: frozenset[str]
    """Names of the metrics of `spectra` that were computed."""
    prompt_sets: pl.DataFrame
    """Which runs of the store are comparable, at each number of prompts."""
    left_out: tuple[str, ...]
    """A line for each part of the selected runs that is left out because it is not committed."""
    views: tuple[RunView, ...] = ()
    """The runs that the numbers are of, as they were read."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of the runs, by run id."""
    cluster: str | None = None
    """Field of the prompts whose equal values the errors take as one; None: neighbours."""
    base: str = ""
    """The run that the others are compared with: run A of their differences, which are B - A."""

    def profiles(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """One row per run, context, number of prompts, first position and site, with flags.

        Each metric has columns for its value, the prefix it came from and its error, as of
        `aggregate`. The entropy does not depend on the first position. By default they are the
        rows of the table `site_profiles`; of another aggregate than the least, the entropy as a
        share of ln V is `entropy_norm` in place of `entropy_floor`.
        """
        profiles = self.aggregated(entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes)
        profiles = with_prompt_sets(profiles, self.prompt_sets, beside=BESIDE)
        facts = self.facts(profiles, drop_prefixes=drop_prefixes)
        profiles = profiles.drop("n_prompt_sets").with_columns(flags=flags_of_any(facts.values()))
        if entropy != "min":
            return profiles
        old = [name for name in profiles.columns if name.startswith("entropy_norm")]
        profiles = profiles.rename({n: n.replace("entropy_norm", "entropy_floor") for n in old})
        # of another choice of prefixes it is not known
        known = pl.lit(None, pl.Float64) if drop_prefixes else pl.col("floor_bias").fill_nan(None)
        bias = self.floor_bias.select(*_SETTING, entropy_floor_bias=known)
        return profiles.join(bias, on=_SETTING, how="left", maintain_order="left")

    def aggregated(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """`profiles` without flags and prompt sets."""

        def of_each(frame: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
            return aggregate(frame, by, entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes)

        floors = of_each(self.entropy, _SETTING).drop("prefixes")
        profiles = of_each(self.spectra, [*_SETTING, "first_position", "site"])
        aside = self.spectra.select(*_SETTING, "n_quarantined").unique()
        about = self.runs.select("run", "model", "corpus")
        for frame, on in ((floors, _SETTING), (aside, _SETTING), (about, ["run"])):
            profiles = profiles.join(frame, on=on, how="left", maintain_order="left")
        return profiles

    def facts(
        self, profiles: pl.DataFrame, *, drop_prefixes: Collection[int] = ()
    ) -> dict[str, pl.DataFrame]:
        """The facts that flags use: for each metric a frame with a row for each of `profiles`."""
        included = ~pl.col("prefix").is_in(list(drop_prefixes))
        of_sites = with_lossy(self.spectra.filter(included), self.views)
        return {
            metric: profile_facts(
                profiles,
                metric,
                spectra=of_sites,
                entropy=self.entropy.filter(included),
                runs=self.runs,
                computed=self.computed,
            )
            for metric in (*ENTROPIES, *RANKS)
        }

    def frames(self, profiles: pl.DataFrame | None = None) -> dict[str, pl.DataFrame]:
        """Tables `site_profiles`, `spectra`, `entropy`, `metrics` and `jackknife`, by name.

        profiles: rows of `site_profiles`; by default floors and maxima over all prefixes.
        """
        profiles = self.profiles() if profiles is None else profiles
        of_spectra = with_lossy(self.spectra, self.views).with_columns(ratio="participation_ratio")
        tables = {
            "site_profiles": profiles,
            "spectra": self.spectra.with_columns(flags=flags_of(of_spectra)),
            "entropy": self.entropy,
            "metrics": self.metrics,
            "jackknife": jackknife_rows(profiles, ("entropy_floor", *RANKS), self.without_groups),
        }
        cluster = pl.lit(self.cluster, pl.String).alias("cluster")
        return {name: frame.with_columns(cluster) for name, frame in tables.items()}

    profiles_frame = frame_method("site_profiles")
    spectra_frame = frame_method("spectra")
    entropy_frame = frame_method("entropy")
    metrics_frame = frame_method("metrics")
    jackknife_frame = frame_method("jackknife")


def analyze(
    url: Url,
    settings: ProfileSettings = ProfileSettings(),
    *,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> Analysis:
    """Compute the numbers that `settings` ask for of the store at `url`; cached ones are read.

    Metrics of the paper that need no further work are always included. Errors of effective ranks
    take one eigensolve per group. `Analysis.profiles` aggregates over prefixes. progress: advances
    by one for each run and site; its `warn` gets a line for each part of the selection that a run
    lacks. executor: computes the metrics of sites. The entropy at a prefix without captured logit
    statistics is null.

    Raises InputError for a selection that the store does not have, FormatError for altered bytes.
    """
    all_views = views(url)
    base = settings.against
    if base is not None:
        plans = plans_of(all_views)
        base = find_run(base, plans, f"--against {base}")
        settings = replace(settings, runs=(*settings.runs, base))
    settings = resolved(all_views, settings)
    selected, incomplete = select_among(url, all_views, settings)
    if base is None:
        base = first_named(settings.runs, plans_of(selected)) or selected[0].run.id
    sites = select_sites(selected, settings)
    check_dropped(selected, settings, settings.drop_prefixes)
    for line in (
        *incomplete,
        *shortfalls(selected, settings),
        *entropy.uncaptured_lines(selected, settings.contexts),
    ):
        progress.warn(line)
    progress.expect(n_sites(selected, sites))
    return analyze_views(
        selected,
        sites,
        settings,
        comparable_among=all_views,
        names=names_of(view.run for view in selected),
        left_out=incomplete,
        progress=progress,
        executor=executor,
        base=base,
    )


def analyze_views(
    selected: Sequence[RunView],
    sites: Collection[str],
    settings: ProfileSettings,
    *,
    comparable_among: Sequence[RunView],
    names: Mapping[str, str],
    left_out: Sequence[str] = (),
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
    base: str = "",
) -> Analysis:
    """`analyze` for runs and sites that are already selected.

    comparable_among: every run of the store, also those not selected, so that prompt sets have the
    same names in the output of every command. names: of the runs, for notes of progress.
    """
    declared = with_free(chosen(settings.metrics))
    keys = spectra.all_keys(selected, settings).filter(pl.col("site").is_in(sites))
    of_sites = [metric for metric in declared if metric.needs != "tokens"]
    of_tokens = [metric for metric in declared if metric.needs == "tokens"]
    parts: list[spectra.SiteEstimates] = []
    groups_of: dict[str, Groups] = {
        view.run.id: settings.groups
        if settings.cluster is None
        else clusters_of(view.run, settings.cluster, settings.groups)
        for view in selected
    }
    request = site_requests(keys, [*of_sites, *spectra.sink_metrics()], settings.errors, groups_of)
    rest = [m for m in of_sites if m.name not in spectra.SPECTRA_SCHEMA]
    for view, of_site, estimates in spectra.site_numbers(selected, keys, request, executor):
        parts.append((of_site, estimates))
        progress.advance()
        progress.note(f"{of_site.item(0, 'site')} of {names[view.run.id]}")
    no_groups: Mapping[str, Groups] = {}
    sure = no_groups if settings.errors == "none" else groups_of
    of_logits = _logit_frames(selected, settings, of_tokens, sure)
    prefixes = entropy.prefix_keys(selected, settings)
    ends = entropy.run_frames(
        selected, prefixes, frozenset(entropy.ENTROPY_SCHEMA), groups=groups_of
    )
    runs = pl.DataFrame([run_row(view) for view in selected], infer_schema_length=None)
    of_spectra = spectra.frame(parts)
    by_prefix = pl.concat(
        [pl.DataFrame(schema={**entropy.ENTROPY_SCHEMA, **entropy.WITHOUT, **entropy.BIAS}), *ends]
    )
    of_entropy = by_prefix.select(*entropy.ENTROPY_SCHEMA)
    sets = prompt_sets(comparable_among, of_entropy["n_prompts"].unique())
    others = [metric_table.frame_of_sites(parts, rest), *of_logits]
    of_metrics = with_prompt_sets(pl.concat(others), sets, beside=BESIDE)
    facts = metric_facts(
        of_metrics, spectra=with_lossy(of_spectra, selected), entropy=of_entropy, runs=runs
    )
    return Analysis(
        runs=runs,
        spectra=of_spectra,
        entropy=of_entropy,
        metrics=of_metrics.select(*metric_table.METRICS_SCHEMA.names(), flags_of(facts)),
        floor_bias=by_prefix.select(*_SETTING, *entropy.BIAS).unique(),
        without_groups=(without_groups(parts), entropy.without_groups(by_prefix)),
        computed=frozenset(metric.name for metric in declared).intersection(PAPER_NAMES),
        prompt_sets=sets,
        left_out=tuple(left_out),
        views=tuple(selected),
        names=names,
        cluster=settings.cluster,
        base=base,
    )


def site_requests(
    keys: pl.DataFrame,
    metrics: Sequence[Metric[Any]],
    errors: ErrorSites,
    groups: Mapping[str, Groups],
) -> Callable[[pl.DataFrame], Request]:
    """A function that gives the request for each site: `metrics`, with errors where wanted.

    groups: of the jackknife, by run.
    """
    deepest = dict(
        keys.group_by("run").agg(pl.col("site").last()).rows()
    )  # keys are ordered by depth

    def request(of_site: pl.DataFrame) -> Request:
        run, site = of_site.select("run", "site").row(0)
        sure = errors == "all" or (errors == "final" and site == deepest[run])
        return _request(metrics, groups[run] if sure else 0)

    return request


def _request(metrics: Sequence[Metric[Any]], groups: Groups) -> Request:
    """A request for `metrics`, with errors if `groups` is not 0."""
    errors = [metric.name for metric in metrics] if groups else []
    return Request(metrics=metrics, errors=errors, groups=groups, compared=True)


def _logit_frames(
    views: Sequence[RunView],
    selection: Selection,
    metrics: Sequence[Metric[Any]],
    groups: Mapping[str, Groups],
) -> Iterator[pl.DataFrame]:
    """Rows of the metrics table for metrics of token statistics. groups: as of `site_requests`."""
    for view in views if metrics else ():
        keys = metric_table.crossed(metric_table.of_logits(view, selection), metrics)
        request = _request(metrics, groups.get(view.run.id, 0))
        yield from metric_table.logit_frames([view], keys, request)
