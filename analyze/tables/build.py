"""An analysis as the tables of its database."""

import warnings

import polars as pl

from lpp.analyze.metrics.registry import RANKS
from lpp.analyze.quantities.flags import flags_of
from lpp.analyze.questions import ProfileSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.analysis import Analysis, analyze
from lpp.analyze.tables.database import put
from lpp.analyze.tables.facts import with_lossy
from lpp.analyze.tables.jackknife import jackknife_rows
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress


def frames(analysis: Analysis, profiles: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables of `analysis`. profiles: its floors and maxima."""
    of_spectra = with_lossy(analysis.spectra, analysis.views).with_columns(
        ratio="participation_ratio"
    )
    tables = {
        "spectra": analysis.spectra.with_columns(flags=flags_of(of_spectra)),
        "entropy": analysis.entropy,
        "metrics": analysis.metrics,
        "site_profiles": profiles,
        "jackknife": jackknife_rows(profiles, ("entropy_floor", *RANKS), analysis.without_groups),
    }
    cluster = pl.lit(analysis.cluster, pl.String).alias("cluster")
    return {name: frame.with_columns(cluster) for name, frame in tables.items()}


def build_database(
    url: Url,
    settings: ProfileSettings = ProfileSettings(),
    *,
    progress: Progress = SILENT,
) -> Place:
    """Analyse the store at `url` and write its `profiles.duckdb`; return the file's path.

    Warns about each incomplete run.
    """
    analysis = analyze(url, settings, progress=progress)
    for line in analysis.left_out:
        warnings.warn(line, stacklevel=2)
    profiles = analysis.profiles(drop_prefixes=settings.drop_prefixes)
    return write_database(url, analysis, profiles=profiles)


def write_database(url: Url, analysis: Analysis, *, profiles: pl.DataFrame | None = None) -> Place:
    """Merge the tables of `analysis` into the database of the store at `url`.

    profiles: of `analysis`, floors and maxima, if they have been computed. Correlations are
    removed, because they came from the earlier profiles.
    """
    profiles = analysis.profiles() if profiles is None else profiles
    return put(url, frames(analysis, profiles), keep=(), read=analysis.views)
