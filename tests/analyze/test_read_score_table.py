"""Tables of scores: the three forms, and every way in which a cell can be wrong."""

import io
import random
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lpp.analyze.scores.read_score_table import read_score_table
from lpp.analyze.scores.scores import Added
from lpp.store.errors import InputError

AddFile = Callable[..., Added]

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


def rows(added: Added) -> list[tuple[object, ...]]:
    columns = ["model", "benchmark", "metric", "value", "stderr", "n"]
    return [tuple(row.values()) for row in added.table.select(columns).to_pylist()]


def kind(added: Added) -> str:
    return str(added.table["kind"][0])


def parquet(columns: dict[str, list[object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def as_csv(columns: dict[str, list[object]]) -> bytes:
    lines = [columns.keys(), *zip(*columns.values(), strict=True)]
    return "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines).encode()


@pytest.mark.parametrize("name", ["board.parquet", "board.csv"])
def test_leaderboard_export(add_file: AddFile, name: str) -> None:
    data = (parquet if name.endswith("parquet") else as_csv)(LEADERBOARD)  # type: ignore[arg-type]
    read = add_file(data, name)
    assert kind(read) == "leaderboard"
    assert rows(read) == [
        ("org/A", "IFEval", "score", 31.5, None, None),
        ("org/A", "BBH", "score", 8.5, None, None),
        ("org/A", "MMLU-PRO", "score", 7.5, None, None),
        ("org/B", "IFEval", "score", 64.25, None, None),
        ("org/B", "BBH", "score", 25.75, None, None),
        ("org/B", "MMLU-PRO", "score", 25.0, None, None),
    ]
    assert read.missing == []  # an average and a licence are no benchmarks


def test_wide_table_with_errors_and_a_byte_order_mark(add_file: AddFile) -> None:
    text = "\ufeffBBH_stderr,Model,BBH,My Bench\n0.5,org/A,40,0.25\n,org/B,41,\n"
    read = add_file(text.encode(), "mine.csv")
    assert (kind(read), rows(read)) == (
        "csv",
        [
            ("org/A", "BBH", "score", 40.0, 0.5, None),
            ("org/A", "My Bench", "score", 0.25, None, None),
            ("org/B", "BBH", "score", 41.0, None, None),
        ],
    )
    assert read.missing == ["My Bench of org/B (mine.csv, row 2)"]


def test_long_table(add_file: AddFile) -> None:
    text = "model\tbenchmark\tmetric\tvalue\tstderr\tn\na\tBBH\tacc\t0.5\t0.01\t40\na\tX\t\t2\t\t\n"
    read = add_file(text.encode(), "mine.tsv")
    assert rows(read) == [("a", "BBH", "acc", 0.5, 0.01, 40), ("a", "X", "score", 2.0, None, None)]


def test_only_some_columns(add_file: AddFile) -> None:
    text = b"model,BBH,note\na,40,fine\n"
    with pytest.raises(InputError, match=r"m\.csv, row 1, note: 'fine' is not a number"):
        add_file(text, "m.csv")
    assert rows(add_file(text, "m.csv", benchmarks=("BBH",))) == [
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
        ("model,BBH\na,1,2\n", "not readable as text"),
        ("model,BBH,X\n\na,1,2\n  ,3\n", r"m\.csv, row 2: no model"),
        ("name,BBH\na,1\n", "its columns are name, BBH"),
        ("", "its columns are none"),
        ("model\na\n", "no column of it is a benchmark"),
        ("model,benchmark,value\na,,1\n", "row 1: no benchmark"),
        ("model,benchmark,value,n\na,X,1,many\n", "row 1, n: 'many' is not a number"),
        ("model,benchmark,value,n\na,X,1,-1\n", "row 1: -1 items"),
        ("model,benchmark,value,n\na,X,1,2147483648\n", "row 1: 2147483648 items"),
        ("model,benchmark,value,stderr\na,X,1,x\n", "row 1, stderr: 'x' is not a number"),
        ("model,BBH,BBH_stderr\na,1,x\n", "BBH_stderr: 'x' is not a number"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(add_file: AddFile, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_file(text.encode(), "m.csv")


@pytest.mark.parametrize(("data", "name"), [(b"\xff\xfe\x00", "m.csv"), (b"PAR", "m.parquet")])
def test_unreadable_bytes_are_refused(add_file: AddFile, data: bytes, name: str) -> None:
    with pytest.raises(InputError, match="not readable"):
        add_file(data, name)


def test_a_short_row_lacks_its_last_scores(add_file: AddFile) -> None:
    added = add_file(b"model,BBH,X\n\na,1,2\nb,3\n", "m.csv")
    assert [row[:2] + row[3:4] for row in rows(added)] == [
        ("a", "BBH", 1.0),
        ("a", "X", 2.0),
        ("b", "BBH", 3.0),
    ]
    assert added.missing == ["X of b (m.csv, row 2)"]


def test_damaged_parquet_is_read_or_refused() -> None:
    """Whatever byte is another, the process lives, and nothing but an InputError comes of it."""
    whole, draws, refused = parquet({"model": ["a", "b"], "X": [1.5, 2.5]}), random.Random(1), 0
    for _ in range(300):
        data = bytearray(whole)
        data[draws.randrange(len(data))] = draws.randrange(256)
        try:
            read_score_table(bytes(data), "m.parquet")
        except InputError:
            refused += 1
    assert refused > 100


def test_parquet_of_other_types(add_file: AddFile) -> None:
    columns: dict[str, list[object]] = {
        "model": [1, 2],
        "X": [Decimal("1.5"), None],
        "Y": [3, 4],
        "tags": [["a"], []],
    }
    assert [row[:4] for row in rows(add_file(parquet(columns), "m.parquet"))] == [
        ("1", "X", "score", 1.5),
        ("1", "Y", "score", 3.0),
        ("2", "Y", "score", 4.0),
    ]
    with pytest.raises(InputError, match=r"row 1, Z: 'true' is not a number"):
        add_file(parquet({"model": ["a"], "Z": [True]}), "m.parquet")


def test_cells_may_hold_lines_and_rows_may_be_blank(add_file: AddFile) -> None:
    text = 'model,"My\nBench",Y\r\n\r\n"a ""b""",1, 2 \r\n,,\r\nc,,3\r\n'
    added = add_file(text.encode(), "m.csv")
    assert [row[0] for row in rows(added)] == ['a "b"', 'a "b"', "c"]
    assert [row[1] for row in rows(added)] == ["My\nBench", "Y", "Y"]
    assert added.missing == ["My\nBench of c (m.csv, row 2)"]


def test_numbers_keep_their_bits(add_file: AddFile) -> None:
    draws = np.random.default_rng(0).standard_normal(200)
    values = [*(draws * 10.0 ** (100 * draws)).tolist(), 0.1 + 0.2, 5e-324, 1.7e308, -0.0]
    models = [f"m{k}" for k in range(len(values))]
    table: dict[str, list[object]] = {"model": [*models], "X": [*values]}
    singles = pa.table({"model": models, "X": pa.array(draws[:1].tolist() * 204, pa.float32())})
    sink = io.BytesIO()
    pq.write_table(singles, sink)
    files = {"m.csv": as_csv(table), "m.parquet": parquet(table), "s.parquet": sink.getvalue()}
    expected = {"s.parquet": [float(np.float32(draws[0]))] * 204}
    for name, data in files.items():
        added = add_file(data, name, unit="other")
        assert added.table["value"].to_pylist() == expected.get(name, values)


def test_an_unnamed_column_is_one_like_others(add_file: AddFile) -> None:
    text = b",model,BBH\n0,a,40\n"
    added = add_file(text, "m.csv", benchmarks=("BBH",))
    assert rows(added) == [("a", "BBH", "score", 40.0, None, None)]
    with pytest.raises(InputError, match="a name is empty"):
        add_file(text, "m.csv")


def test_names_of_columns_are_no_patterns(add_file: AddFile) -> None:
    added = add_file(b"model,*,^B.*$,where,row,BBH\na,1,2,3,4,5\n", "m.csv", unit="other")
    assert [row[1] for row in rows(added)] == ["*", "^B.*$", "where", "row", "BBH"]
    assert added.table["value"].to_pylist() == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"row 1, \*: 'x' is not a number"):
        add_file(b"model,*,BBH\na,x,y\n", "m.csv")
