"""An analysis as the tables of its database."""

import warnings
from collections.abc import Collection

import pyarrow as pa

from lpp.analyze.runs.keys import Url
from lpp.analyze.runs.select import Selection
from lpp.analyze.tables.analysis import Analysis, analyze
from lpp.analyze.tables.scored import store_tables
from lpp.sql import build
from lpp.sql.schema import TABLES, arrow_schema
from lpp.store import open_store
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.objects.place import Place


def arrow_tables(analysis: Analysis, *, drop_prefixes: Collection[int] = ()) -> dict[str, pa.Table]:
    """Tables that `analysis` makes. Its profiles are always floors and maxima, as named."""
    of_sites = analysis.profiles(drop_prefixes=drop_prefixes)
    of_sites = of_sites.rename(
        {
            name: name.replace("entropy_norm", "entropy_floor")
            for name in of_sites.columns
            if name.startswith("entropy_norm")
        }
    )
    # sites come in depth order, so the last of a run is `final` or the deepest there is
    deepest = of_sites.group_by("run", "context", "n_prompts", maintain_order=True).last()
    frames = {
        "spectra": analysis.spectra,
        "entropy": analysis.entropy,
        "metrics": analysis.metrics,
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
) -> Place:
    """Analyse the store at `url` and replace its `profiles.duckdb`; return the file's path.

    Warns of a run that is incomplete.
    """
    analysis = analyze(url, selection or Selection(), progress=progress)
    for line in analysis.left_out:
        warnings.warn(line, stacklevel=2)
    return write_database(url, analysis, drop_prefixes=drop_prefixes)


def write_database(url: Url, analysis: Analysis, *, drop_prefixes: Collection[int] = ()) -> Place:
    """Replace the tables of `analysis` in the database of the store at `url`; others stay.

    All but the correlations, which were of the profiles before. Runs, prompts and scores are
    those of the store as it is now.
    """
    root = open_store(url).path
    tables = arrow_tables(analysis, drop_prefixes=drop_prefixes)
    kept = TABLES.keys() - {"correlations"}
    return build(root, store_tables(root) | tables, keep=kept)
