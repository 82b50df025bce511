"""Tables of scores: the three forms, and every way in which a cell can be wrong."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpp.analyze.scores.read_score_table import read_score_table
from lpp.analyze.scores.score_rows import ScoreFile
from lpp.store.errors import InputError

LEADERBOARD = {
    "eval_name": ["a", "b"],
    "fullname": ["org/A", "org/B"],
    "Average": [40.5, 50.5],
    "IFEval": [31.5, 64.25],
    "BBH": [8.5, 25.75],
    "MMLU-PRO": [7.5, 25.0],
    "#Params (B)": [0.5, 3.25],
    "Hub License": ["mit", None],
}


def rows(read: ScoreFile) -> list[tuple[object, ...]]:
    return [(s.model, s.benchmark, s.metric, s.value, s.stderr, s.n) for s in read.scores]


def parquet(columns: dict[str, list[object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def as_csv(columns: dict[str, list[object]]) -> bytes:
    lines = [columns.keys(), *zip(*columns.values(), strict=True)]
    return "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines).encode()


@pytest.mark.parametrize("name", ["board.parquet", "board.csv"])
def test_leaderboard_export(name: str) -> None:
    data = (parquet if name.endswith("parquet") else as_csv)(LEADERBOARD)  # type: ignore[arg-type]
    read = read_score_table(data, name)
    assert read.kind == "leaderboard"
    assert rows(read) == [
        ("org/A", "IFEval", "score", 31.5, None, None),
        ("org/A", "BBH", "score", 8.5, None, None),
        ("org/A", "MMLU-PRO", "score", 7.5, None, None),
        ("org/B", "IFEval", "score", 64.25, None, None),
        ("org/B", "BBH", "score", 25.75, None, None),
        ("org/B", "MMLU-PRO", "score", 25.0, None, None),
    ]
    assert read.sizes == {"org/A": 0.5, "org/B": 3.25}
    assert read.missing == []  # an average and a licence are no benchmarks


def test_wide_table_with_errors_and_a_byte_order_mark() -> None:
    text = "\ufeffBBH_stderr,Model,BBH,My Bench\n0.5,org/A,40,0.25\n,org/B,41,\n"
    read = read_score_table(text.encode(), "mine.csv")
    assert (read.kind, rows(read)) == (
        "csv",
        [
            ("org/A", "BBH", "score", 40.0, 0.5, None),
            ("org/A", "My Bench", "score", 0.25, None, None),
            ("org/B", "BBH", "score", 41.0, None, None),
        ],
    )
    assert list(map(str, read.missing)) == ["My Bench of org/B (mine.csv, row 2)"]


def test_long_table() -> None:
    text = "model\tbenchmark\tmetric\tvalue\tstderr\tn\na\tBBH\tacc\t0.5\t0.01\t40\na\tX\t\t2\t\t\n"
    read = read_score_table(text.encode(), "mine.tsv")
    assert rows(read) == [("a", "BBH", "acc", 0.5, 0.01, 40), ("a", "X", "score", 2.0, None, None)]


def test_parquet_writes_nothing_as_nan() -> None:
    read = read_score_table(parquet({"model": ["a"], "X": [float("nan")], "Y": [1.0]}), "m.parquet")
    assert rows(read) == [("a", "Y", "score", 1.0, None, None)]
    assert list(map(str, read.missing)) == ["X of a (m.parquet, row 1)"]


def test_only_some_columns() -> None:
    text = b"model,BBH,note\na,40,fine\n"
    with pytest.raises(InputError, match=r"m\.csv, row 1, note: 'fine' is not a number"):
        read_score_table(text, "m.csv")
    assert rows(read_score_table(text, "m.csv", lambda name: name == "BBH")) == [
        ("a", "BBH", "score", 40.0, None, None)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model,BBH\na,"34,5"\n', r"m\.csv, row 1, BBH: '34,5' is not a number"),
        ("model,BBH\na,45 %\n", "'45 %' is not a number"),
        ("model,BBH\na,nan\n", "'nan' is not a number"),
        ("model,BBH\na,inf\n", "'inf' is not a number"),
        ("model,BBH\na,1_0\n", "'1_0' is not a number"),
        ("model,BBH\n,40\n", "row 1: no model"),
        ("model,BBH,BBH\na,1,2\n", "column 'BBH' is there twice"),
        ("model,BBH\na,1,2\n", "row 1: 3 cells, the header has 2"),
        ("name,BBH\na,1\n", "its columns are name, BBH"),
        ("", "its columns are none"),
        ("model\na\n", "no column of it is a benchmark"),
        ("model,benchmark,value\na,,1\n", "row 1: no benchmark"),
        ("model,benchmark,value,n\na,X,1,many\n", "row 1, n: 'many' is not a number"),
        ("model,BBH,BBH_stderr\na,1,x\n", "BBH_stderr: 'x' is not a number"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_score_table(text.encode(), "m.csv")


@pytest.mark.parametrize(("data", "name"), [(b"\xff\xfe\x00", "m.csv"), (b"PAR", "m.parquet")])
def test_unreadable_bytes_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(InputError, match="not readable"):
        read_score_table(data, name)


def test_five_problems_are_told_and_the_others_counted() -> None:
    text = "model,BBH\n" + "a,x\n" * 7
    with pytest.raises(InputError, match=r"row 5, BBH.*; and 2 more"):
        read_score_table(text.encode(), "m.csv")
