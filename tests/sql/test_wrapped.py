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


def test_what_is_equal_in_every_row_stands_above_where_there_is_no_room() -> None:
    wide = lines(result(3), 140)
    assert wide[0].split() == [*HEADS]
    narrow = lines(result(3), 60)
    assert narrow[0] == "context 200, ci_low 1.5, ci_high -2.5, flags []"
    assert narrow[2].split() == ["metric", "run", "value"]


def test_leading_texts_stand_above_the_rows_that_share_them() -> None:
    rows = [
        (name, str(k), f"{k}.5" * 8)
        for name in ("a model with a long name", "another model")
        for k in range(2)
    ]
    text = lines(ResultTexts(("run", "layer", "value"), rows, (False, True, True)), 36)
    assert text[0].split() == ["layer", "value"]
    assert text[2] == "a model with a long name"
    assert text[5] == "another model"


def test_text_that_comes_with_the_leading_one_stands_above_too_and_no_cell_is_high() -> None:
    why = "a sentence that says what the flag means, too long for a narrow column of a table, yes"
    runs = [("a first run of two", "1"), ("a second run of two", "2")]
    rows = [(flag, f"{flag}: {why}", *run) for flag in "ab" for run in runs]
    result = ResultTexts(("flag", "why", "run", "rows"), rows, (False, False, False, True))
    text = lines(result, 40)
    assert max(map(len, text)) <= 60  # a line above a table may be as long as 60
    assert text[0].split() == ["run", "rows"]
    assert " ".join(text).count("what the flag means") == 2
    for width in (90, 120):
        beside = lines(ResultTexts(result.heads, rows[:1], result.numeric), width)
        assert len(beside) <= 2 + 4


def test_a_repeated_leading_text_is_shown_once() -> None:
    text = "\n".join(lines(result(2), 140))
    assert text.count("participation_ratio_norm") == 1


def test_what_fits_in_no_way_is_no_table() -> None:
    number = ("1" * 30,)
    assert wrapped_table(ResultTexts(("n",), [number], (True,)), 20) is None
    long = ("word " * 40,)
    assert wrapped_table(ResultTexts(("text",), [long], (False,)), 80) is None


def test_a_word_longer_than_a_column_is_broken_and_whole() -> None:
    rows = [("x" * 50, "a", "1"), ("y" * 50, "b", "2")]
    text = lines(ResultTexts(("hash", "run", "n"), rows, (False, False, True)), 40)
    assert max(map(len, text)) <= 40
    assert "".join(text).count("x") == 50


def test_a_result_without_rows_has_its_heads() -> None:
    assert lines(ResultTexts(("run", "n"), [], (False, True)), 80)[0].split() == ["run", "n"]
