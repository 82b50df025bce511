"""Estimates and entropies that a profile keeps: the same bits, of the same question, undamaged."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from made_runs import MakeRun

from lpp.analyze import ProfileSettings, analyze
from lpp.analyze.tables.analysis import Analysis
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.keys import ANALYSIS_KEY

LENGTHS = (12, 7, 20, 20, 3, 15)


def bits(found: Analysis) -> list[Any]:
    frames = (found.spectra, found.entropy, found.floor_bias, *found.without_groups)
    return [frame.sort(pl.all()).to_arrow().to_pylist() for frame in map(numbered, frames)]


def numbered(frame: pl.DataFrame) -> pl.DataFrame:
    """NaN as a number that equals itself."""
    return frame.with_columns(pl.col(pl.Float64).fill_nan(-1e300))


def kept(root: Path, pattern: str) -> list[Path]:
    return sorted((root / ANALYSIS_KEY).rglob(pattern))


def test_what_is_kept_answers_without_the_rest(make_run: MakeRun) -> None:
    root = make_run(LENGTHS, sites=("embed", "final")).root
    first = bits(analyze(root))
    assert len(kept(root, "estimates-*")) == 2
    assert len(kept(root, "entropy-*")) == 1
    for file in [*kept(root, "spectra-*"), *kept(root, "values-*")]:
        file.unlink()
    for rows in root.rglob("c/0/0"):  # nothing reads them
        rows.write_bytes(b"")
    assert bits(analyze(root)) == first


def test_an_altered_file_is_computed_again(make_run: MakeRun) -> None:
    root = make_run(LENGTHS, sites=("final",)).root
    first = bits(analyze(root))
    for file in [*kept(root, "estimates-*"), *kept(root, "entropy-*")]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert bits(analyze(root)) == first


@pytest.mark.slow
def test_other_groups_are_another_question(make_run: MakeRun) -> None:
    root = make_run(LENGTHS, sites=("final",), carried={"field.document": [*"aabbcc"]}).root
    settings = [
        ProfileSettings(),
        ProfileSettings(cluster="document"),
        ProfileSettings(groups=3),
        ProfileSettings(errors="none"),
    ]
    alone = []
    for one in settings:
        alone.append(bits(analyze(root, one)))
        for file in kept(root, "*.arrow"):
            file.unlink()
    assert len({str(one) for one in alone}) == len(settings)
    for _ in range(2):
        assert [bits(analyze(root, one)) for one in settings] == alone


def test_damaged_statistics_are_refused_although_entropies_are_kept(make_run: MakeRun) -> None:
    root = make_run(LENGTHS, sites=("final",)).root
    analyze(root)
    tokens = next(root.rglob("tokens.arrow"))
    data = bytearray(tokens.read_bytes())
    data[len(data) // 2] ^= 1
    tokens.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        analyze(root)
    assert caught.value.kind is ErrorKind.CORRUPT
