"""Arguments of public functions, what errors are beside ours, and the rule of `-o FILE`."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import pytest
from small_capture import make_capture

from lpp import analyze, store
from lpp.store import Run
from lpp.store.errors import (
    ConflictError,
    ErrorKind,
    FormatError,
    InputError,
    LppError,
    MachineError,
    NotFoundError,
)
from lpp.store.settings.arguments import check_numbers_of, check_positive, check_whole
from lpp.store.terminal.output import chosen_format


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_capture().write(tmp_path_factory.mktemp("words") / "store")


WRONG: dict[str, Callable[[Any], Any]] = {
    "dtype='float64'": lambda run: next(run.blocks("final", dtype="float64")),
    "dtype='Stored'": lambda run: run.array("final", dtype="Stored"),
    "dtype=None": lambda run: run.require_rows("final", None),
    "entropy='avg'": lambda _: analyze.aggregate(pl.DataFrame(), [], entropy="avg"),  # type: ignore[arg-type]
    "ranks='MAX'": lambda _: analyze.aggregate(pl.DataFrame(), [], ranks="MAX"),  # type: ignore[arg-type]
    "form='pdf'": lambda run: analyze.write_report(run.path, Path("x.pdf"), "pdf"),  # type: ignore[arg-type]
    "kind='top'": lambda run: analyze.export_targets(run, Path("x.parquet"), "top"),  # type: ignore[arg-type]
    "errors='some'": lambda run: analyze.scan_drift_sites(run.path, "a", "b", errors="some"),  # type: ignore[arg-type]
    "entropy_by='mode'": lambda _: analyze.ProfileSettings(entropy_by="mode"),  # type: ignore[arg-type]
    "errors='most'": lambda _: analyze.DiffSettings(errors="most"),  # type: ignore[arg-type]
    "unit='share'": lambda _: analyze.ScoreSettings(unit="share"),  # type: ignore[arg-type]
    "seed=-1": lambda _: analyze.ItemsSettings(seed=-1),
    "prompts=0": lambda _: analyze.DiffSettings(prompts=0),
    "k=0": lambda _: analyze.TargetSettings(k=0),
    "temperature=nan": lambda _: analyze.TargetSettings(temperature=float("nan")),
    "folds=1": lambda _: analyze.LabelProbeSettings(folds=1),
    "dtype='float8_e4m3'": lambda _: sink(dtype="float8_e4m3"),
    "dtype='fp32'": lambda _: sink(dtype="fp32"),
    "shard_bytes=0": lambda _: sink(shard_bytes=0),
    "memory_bytes=-1": lambda _: sink(memory_bytes=-1),
    "repair='yes'": lambda _: sink(repair="yes"),
    "model=3": lambda _: sink(model=3),
}


def sink(**options: Any) -> Any:
    return store.sink("none", **{"model": "m", "sites": {"a": 2}, "prompts": [[1]], **options})


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_word_or_number_is_named(
    run: Run, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        WRONG[said](run)
    assert said in str(refused.value)
    assert [*tmp_path.iterdir()] == []


def test_rows_of_8_bits_are_named_with_their_argument() -> None:
    with pytest.raises(InputError, match=r"sites=.*float8_e4m3"):
        sink(dtype="float8_e4m3")


def test_numbers_of_numpy_are_numbers() -> None:
    assert check_whole("n", np.int64(3), most=3) == 3
    assert check_positive("n", np.float32(0.5)) == 0.5
    assert check_numbers_of("n", np.array([1, 2]), 2, "run") == [1, 2]
    whole: list[Any] = [True, -1, 2**31, "1", 1.0, None]
    positive: list[Any] = [0, -1, float("inf"), "2", None, True]
    numbers: list[Any] = ["12", [1], [1, 0], 2.0, {}]
    wrong: list[Callable[[], Any]] = [
        *(partial(check_whole, "n", value) for value in whole),
        *(partial(check_positive, "n", value) for value in positive),
        *(partial(check_numbers_of, "n", value, 2, "run") for value in numbers),
    ]
    for call in wrong:
        with pytest.raises(InputError, match="n="):
            call()


BUILT_IN = {
    InputError: ValueError,
    NotFoundError: KeyError,
    FormatError: ValueError,
    ConflictError: OSError,
    MachineError: OSError,
}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_an_error_is_ours_and_a_built_in_one(kind: type[LppError]) -> None:
    error = kind("no site 'x'", kind=ErrorKind.NOT_FOUND)
    assert isinstance(error, LppError)
    assert isinstance(error, BUILT_IN[kind])
    assert str(error) == "no site 'x'"  # KeyError would quote it once more
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.kind) == (kind, str(error), ErrorKind.NOT_FOUND)


def test_a_name_that_is_not_there_is_a_bad_input_as_well() -> None:
    assert issubclass(NotFoundError, InputError)
    assert NotFoundError("none").kind is ErrorKind.NOT_FOUND


FORMATS = ("table", "csv", "json")


def test_ending_of_the_file_chooses_the_format() -> None:
    for name, form in (("x.csv", "csv"), ("X.JSON", "json"), ("x.txt", "table"), ("x", "table")):
        assert chosen_format(None, Path(name), FORMATS) == form
    assert chosen_format(None, None, FORMATS) == "table"
    assert chosen_format(None, Path("x.svg"), FORMATS, ("svg",)) == "table"


def test_ending_of_no_format_is_refused_unless_the_format_is_given() -> None:
    with pytest.raises(click.UsageError) as caught:
        chosen_format(None, Path("x.pdf"), FORMATS, ("svg",))
    assert caught.value.exit_code == 2
    for part in (".pdf", ".txt, .csv, .json, .svg", "--format"):
        assert part in str(caught.value)
    assert chosen_format("csv", Path("x.pdf"), FORMATS) == "csv"
