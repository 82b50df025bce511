"""An analysis as the tables of its database."""

import warnings

import polars as pl

from lpp.analyze.questions import ProfileSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.analysis import Analysis, analyze
from lpp.analyze.tables.database import put
from lpp.store.objects.place import Place
from lpp.store.progress import SILENT, Progress


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
    return put(url, analysis.frames(profiles), keep=(), read=analysis.views)
