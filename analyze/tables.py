"""A store's tables, computed and put into its database."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from lpp.analyze import entropy, spectra
from lpp.analyze.flags import flags
from lpp.analyze.keys import RunView, Url
from lpp.analyze.profile import Aggregation, aggregate
from lpp.analyze.select import Selection, select_runs, select_sites
from lpp.sql import build
from lpp.sql.schema import TABLES, arrow_schema
from lpp.store import open_store
from lpp.store.console import SILENT, Progress
from lpp.store.documents import canonical_json


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was computed of a store: one frame per table of the database but `profiles`."""

    runs: pl.DataFrame
    prompts: pl.DataFrame
    spectra: pl.DataFrame
    entropy: pl.DataFrame

    def profiles(
        self,
        *,
        entropy: Aggregation = "min",
        ranks: Aggregation = "max",
        drop_prefixes: Collection[int] = (),
    ) -> pl.DataFrame:
        """One row per run, context, number of prompts and site, with flags.

        Each metric is a column with the prefix it came from, as `aggregate` gives them.
        """
        keys = ["run", "context", "n_prompts"]
        floors = aggregate(
            self.entropy, keys, entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes
        ).drop("prefixes")
        found = aggregate(
            self.spectra, [*keys, "site"], entropy=entropy, ranks=ranks, drop_prefixes=drop_prefixes
        ).join(floors, on=keys, how="left", maintain_order="left")
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
        runs = {row["run"]: row for row in self.runs.iter_rows(named=True)}
        marks = []
        for row in found.iter_rows(named=True):
            key = (row["run"], row["context"], row["n_prompts"])
            # `rows_by_key` leaves the key columns out of the rows.
            here = [{**end, "n_prompts": key[2]} for end in ends[key]]
            marks.append(flags(row, ranks[*key, row["site"]], here, runs[key[0]]))
        return found.with_columns(pl.Series("flags", marks, dtype=pl.List(pl.String)))


def analyze(url: Url, selection: Selection, *, progress: Progress = SILENT) -> Analysis:
    """Compute what `selection` asks of the store at `url`; what was computed before is read.

    progress: advances by one for each run and site.
    Raises InputError for a selection the store does not hold, FormatError for altered bytes.
    """
    views = select_runs(url, selection)
    sites = select_sites(views, selection)
    for view in views:
        for context in view.contexts(selection.contexts) if selection.contexts else ():
            entropy.check_captured(view, context)
    keys = spectra.all_keys(views, selection.contexts, selection.prompts)
    keys = keys.filter(pl.col("site").is_in(sites))
    found = []
    for frame in spectra.frames(url, keys, frozenset(spectra.SCHEMA), None):
        found.append(frame)
        progress.advance()
        progress.note(f"{frame.item(0, 'run')} {frame.item(0, 'site')}")
    of_entropy = entropy.frames(
        url,
        entropy.all_keys(views, selection.contexts, selection.prompts),
        frozenset(entropy.SCHEMA),
    )
    return Analysis(
        runs=pl.DataFrame([run_row(view) for view in views], infer_schema_length=None),
        prompts=pl.concat([prompt_rows(view) for view in views]),
        spectra=pl.concat([pl.DataFrame(schema=spectra.SCHEMA), *found]),
        entropy=pl.concat([pl.DataFrame(schema=entropy.SCHEMA), *of_entropy]),
    )


def run_row(view: RunView) -> dict[str, object]:
    """The runs table's row of one run. Its prompts and tokens are those that can be analysed."""
    plan = view.run.plan
    return {
        "run": view.run.id,
        "model": plan.model.id,
        "revision": plan.model.revision,
        "architecture": plan.model.architecture,
        "untrained_seed": plan.model.untrained_seed,
        "n_parameters": plan.model.n_parameters,
        "n_blocks": plan.model.n_blocks,
        "hidden_size": plan.model.hidden_size,
        "logits_width": plan.model.logits_width,
        "tokenizer_size": plan.tokenizer.size,
        "corpus": plan.corpus.name,
        "prompt_set": plan.corpus.prompt_set,
        "n_prompts": view.run.n_prompts,
        "n_tokens": int(view.lengths.sum()),
        "context": plan.context,
        "logit_positions": plan.logit_positions,
        "compute_dtype": plan.compute.dtype,
        "stored_dtype": plan.stored_dtype,
        "backend": plan.compute.backend,
        "plan_hash": plan.hash,
        "plan": canonical_json(plan.document).decode(),
    }


def prompt_rows(view: RunView) -> pl.DataFrame:
    """The prompts table's rows of one run."""
    run = pl.lit(view.run.id).alias("run")
    return view.prompts.select(run, "prompt_id", "source_row", "n_tokens", "truncated", "sha256")


def arrow_tables(analysis: Analysis, *, drop_prefixes: Collection[int] = ()) -> dict[str, pa.Table]:
    """The tables of the database. Its profiles are always floors and maxima, as they are named."""
    floors = {"entropy_norm": "entropy_floor", "entropy_norm_prefix": "entropy_floor_prefix"}
    of_sites = analysis.profiles(drop_prefixes=drop_prefixes).drop("entropy", "entropy_prefix")
    of_sites = of_sites.rename(floors)
    # sites come in depth order, so the last of a run is `final` or the deepest there is
    deepest = of_sites.group_by("run", "context", "n_prompts", maintain_order=True).last()
    frames = {
        "runs": analysis.runs,
        "prompts": analysis.prompts,
        "spectra": analysis.spectra,
        "entropy": analysis.entropy,
        "profiles": deepest,
        "site_profiles": of_sites,
    }
    return {
        name: frame.select([c.name for c in TABLES[name].columns])
        .to_arrow()
        .cast(arrow_schema(name))
        for name, frame in frames.items()
    }


def build_database(
    url: Url,
    selection: Selection | None = None,
    *,
    drop_prefixes: Collection[int] = (),
    progress: Progress = SILENT,
) -> Path:
    """Analyse the store at `url` and replace its `profiles.duckdb`; return the file's path."""
    analysis = analyze(url, selection or Selection(), progress=progress)
    return write_database(url, analysis, drop_prefixes=drop_prefixes)


def write_database(url: Url, analysis: Analysis, *, drop_prefixes: Collection[int] = ()) -> Path:
    """Replace the database of the store at `url` by the tables of `analysis`."""
    return build(open_store(url).path, arrow_tables(analysis, drop_prefixes=drop_prefixes))
