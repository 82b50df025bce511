"""Saved queries of tokens: what each answers, beside a slow count."""

import math
from pathlib import Path

import numpy as np
import polars as pl
from saved_answers import answer, digits

from lpp.analyze import scan_tokens
from lpp.analyze.metrics.tokens import TOKEN_EXPRESSIONS
from lpp.store import open_store


def test_next_token_against_a_slow_count(documented_store: Path) -> None:
    tokens = scan_tokens(documented_store).collect()
    found = answer(documented_store, "next_token")
    assert [row["run"].split("-")[-2] for row in found] == ["1", "bits", "untrained"]
    for row in found:
        mine = tokens.filter(pl.col("next_logprob").is_not_null(), run=row["run"])
        confidence = np.exp(mine["max_logprob"].to_numpy().astype(np.float64))
        hits = (mine["next_rank"] == 1).to_numpy()
        gaps = 0.0
        for k in range(15):
            inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
            if inside.any():
                gaps += inside.sum() * abs(hits[inside].mean() - confidence[inside].mean())
        surprisal = -mine["next_logprob"].to_numpy().astype(np.float64).mean()
        assert row["tokens"] == len(mine) == 12 * 199
        assert row["surprisal"] == digits(surprisal)
        assert row["perplexity"] == digits(math.exp(surprisal))
        assert row["top1_accuracy"] == digits(hits.mean())
        assert row["confidence"] == digits(confidence.mean())
        assert row["ece"] == digits(gaps / len(mine))


def test_next_token_is_that_of_the_metrics(documented_store: Path) -> None:
    names = ("surprisal", "top1_accuracy", "ece")
    expressions = [TOKEN_EXPRESSIONS[name].alias(name) for name in names]
    declared = scan_tokens(documented_store).group_by("run").agg(expressions).collect()
    for row in answer(documented_store, "next_token"):
        (metrics,) = declared.filter(run=row["run"]).to_dicts()
        assert [row[name] for name in names] == [digits(metrics[name]) for name in names]


def test_surprises_against_a_sort(documented_store: Path) -> None:
    found = answer(documented_store, "surprises")
    tokens = scan_tokens(documented_store).collect()
    for run, mine in tokens.group_by("run"):
        place = ("prompt_id", "position")
        came = mine.select("prompt_id", pl.col("position") - 1, came=pl.col("token_id"))
        hardest = (
            mine.drop_nulls("next_logprob")
            .sort("next_logprob", *place)
            .head(10)
            .join(came, on=place, how="left", maintain_order="left")
        )
        rows = [row for row in found if row["run"] == run[0]]
        of_run = open_store(documented_store).runs[str(run[0])]
        words = of_run.vocabulary()
        assert words is not None
        text = dict(zip(words["id"].to_pylist(), words["text"].to_pylist(), strict=True))
        assert [row["token"] for row in rows] == [text[token] for token in hardest["came"]]
        assert [row["expected"] for row in rows] == [text[token] for token in hardest["top1_id"]]
        assert [row["position"] - 1 for row in rows] == hardest["position"].to_list()
        assert [row["next_rank"] for row in rows] == hardest["next_rank"].to_list()
        assert rows[0]["surprisal"] == digits(-hardest["next_logprob"][0])
        sources = of_run.prompts()["source_row"].to_pylist()
        assert [row["source_row"] for row in rows] == [sources[p] for p in hardest["prompt_id"]]
