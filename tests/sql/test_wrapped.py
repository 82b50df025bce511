"""Tables whose long texts take several lines: nothing is cut, no line is too long."""

import re

import pytest

from lpp.sql.results.wrapped import ResultTexts, wrapped_table

HEADS = ("metric", "run", "context", "value", "ci_low", "ci_high", "flags")
NUMERIC = (False, False, True, True, True, True, False)
METRICS = ("effective_rank", "participation_ratio_norm")


def result(n_runs: int) -> ResultTexts:
    rows = [
        (
            metric,
            f"SmolLM2-{k}-Instruct Q4_1, seed {k}",
            "200",
            f"{j}{k}.12345",
            "1.5",
            "-2.5",
            "[]",
        )
        for j, metric in enumerate(METRICS)
        for k in range(n_runs)
    ]
    return ResultTexts(HEADS, rows, NUMERIC)


def lines(table: ResultTexts, width: int) -> list[str]:
    found = wrapped_table(table, width)
    assert found is not None
    return [*found]


@pytest.mark.parametrize("n_runs", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("width", [58, 80, 120])
def test_every_value_is_whole_and_no_line_too_long(n_runs: int, width: int) -> None:
    table = result(n_runs)
    text = lines(table, width)
    assert max(map(len, text)) <= width
    squeezed = re.sub(r"\s", "", "".join(text))
    for row in table.rows:
        assert row[3] in squeezed
    assert sum(line.count(".12345") for line in text) == len(table.rows)
    for word in ("effective_", "Instruct", "value", "low", "high"):
        assert word in squeezed


def test_what_fits_in_no_way_is_no_table() -> None:
    number = ("1" * 30,)
    assert wrapped_table(ResultTexts(("n",), [number], (True,)), 20) is None
    long = ("word " * 40,)
    assert wrapped_table(ResultTexts(("text",), [long], (False,)), 80) is None
