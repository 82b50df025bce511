"""What a shard's moments must say, where its bytes are as they were written: SPEC.md section 8."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.hidden import open_site, rows_of
from lpp.store.arrays.layout import check_array, site_metadata
from lpp.store.arrays.moments import (
    band_counts,
    packed_rows,
    scatter_array,
    scatter_problem,
    table_problems,
)
from lpp.store.arrays.moments_reader import read_moments_table
from lpp.store.errors import FormatError
from lpp.store.format.keys import MOMENTS_KEY, QUARANTINE_KEY, SCATTERS_KEY
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.format.quarantine import QUARANTINE_SCHEMA
from lpp.store.format.record import CommitRecord
from lpp.store.format.tables import read_table
from lpp.store.objects.checked import checked_file
from lpp.store.objects.place import Place


def moments_problems(
    home: Place, plan: Plan, commit: CommitRecord, tokens: pa.Table
) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it): counts against the prompts, shapes, finite values.

    tokens: of the shard. Of a bucket the metadata of arrays alone: their values are seen when they
    are read. Unpacks a band of a site at a time.
    """
    try:
        counts = band_counts(tokens, _set_aside(home, commit), plan.prefixes)
        file = checked_file(home / MOMENTS_KEY, commit.objects[MOMENTS_KEY])
        table = read_moments_table(file, plan)
    except KeyError:
        yield MOMENTS_KEY, "not part of what was committed"
        return
    except (FormatError, OSError, ValueError) as error:
        yield MOMENTS_KEY, str(error)
        return
    yield from ((MOMENTS_KEY, what) for what in table_problems(table, plan, counts))
    for site in plan.sites:
        try:
            what = _scatter_problem(home, plan, site, counts)
        except FormatError as error:
            what = str(error)
        if what:
            yield f"{SCATTERS_KEY}/{site.name}", what


def _set_aside(home: Place, commit: CommitRecord) -> npt.NDArray[Any]:
    """Prompts that the shard sets aside; none where the list is no list, which others tell."""
    if QUARANTINE_KEY not in commit.objects:
        return np.zeros(0, np.int32)
    try:
        file = checked_file(home / QUARANTINE_KEY, commit.objects[QUARANTINE_KEY])
        ids: npt.NDArray[Any] = read_table(file, QUARANTINE_SCHEMA)["prompt_id"].to_numpy()
    except (FormatError, OSError, ValueError):
        return np.zeros(0, np.int32)
    return ids


def _scatter_problem(home: Place, plan: Plan, site: SiteSpec, counts: npt.NDArray[np.int64]) -> str:
    """What is wrong with the scatter matrices of a site; nothing where they may be right."""
    group, spec = site_metadata(home / SCATTERS_KEY, site.name), scatter_array(site, plan)
    check_array(group, str(home / SCATTERS_KEY), spec, chunks=isinstance(group, Path))
    if not isinstance(group, Path):
        return ""
    array, rows = open_site(group, site.name), packed_rows(site.width)
    for band, n in enumerate(counts):
        values = rows_of(array, site.name, band * rows, (band + 1) * rows).ravel()
        if what := scatter_problem(values, site.width, n):
            return f"band {band}: {what}"
    return ""
