"""Curves along a training: which checkpoints they join, their axis, what they say."""

import polars as pl
import pytest
from chart_frames import checkpoints
from every_chart import panels

import lpp.analyze
from lpp.analyze.charts.profiles import training_curves


def test_a_curve_joins_comparable_checkpoints_by_step() -> None:
    frame = checkpoints()
    curves = training_curves(frame.reverse())
    assert curves["curve"].to_list() == ["tiny-one"] * 5 + ["tiny-two"] * 5
    assert curves["step"].to_list() == [0, 1, 10, 100, 1000] * 2
    # other prompts are another curve, a smaller setting and a second run of one step are left out
    other = frame.head(3).with_columns(
        pl.lit("others").alias("prompt_set"), pl.lit("alpaca").alias("corpus")
    )
    fewer = frame.head(3).with_columns(pl.lit(6, pl.Int32).alias("n_prompts"))
    again = frame.head(1).with_columns(pl.lit("z").alias("run"), pl.lit(9.0).alias("entropy_floor"))
    alone = frame.tail(1).with_columns(pl.lit(None, pl.String).alias("series"))
    cut = frame.tail(1).with_columns(pl.lit(2, pl.Int32).alias("first_position"))
    curves = training_curves(pl.concat([frame, other, fewer, again, alone, cut]))
    counts = dict(curves["curve"].value_counts().iter_rows())
    assert counts == {"tiny-one, alpaca 1": 3, "tiny-one, pydoc 2": 5, "tiny-two": 5}
    assert set(curves["n_prompts"]) == {12}
    assert "z" not in curves["run"]


@pytest.mark.parametrize(
    ("steps", "kind", "domain"),
    [
        ([0, 1, 10, 100, 1000], "symlog", [0, 1150]),
        ([0, 10, 20, 30, 40], None, None),
        ([5, 10, 100, 200, 1000], "log", [5 / 1.15, 1150]),
        ([1000, 2000, 3000, 4000, 5000], None, None),
    ],
)
def test_steps_that_span_two_decades_are_on_a_log_axis(
    steps: list[int], kind: str | None, domain: list[float] | None
) -> None:
    frame = checkpoints(("one",)).with_columns(step=pl.Series(steps))
    for panel in panels(lpp.analyze.training_chart(frame)):
        x = panel["layer"][0]["encoding"]["x"]
        assert x["scale"].get("type") == kind
        assert x["scale"].get("domain") == pytest.approx(domain)
        assert ("(log)" in x["title"]) is (kind is not None)
