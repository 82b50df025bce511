"""The published reference against the published files, and its table."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lpp.analyze.numerics.statistics.association import associate
from lpp.analyze.scores.published import N_PROMPTS, PREFIXES, published_rows, published_table
from lpp.sql import arrow_schema

# column of published.csv -> (file, its column of names, its column)
FROM = {
    "entropy_floor": ("final_data.csv", "Model", "Entropy"),
    "participation_ratio_norm": ("final_data.csv", "Model", "Participation Ratio"),
    "effective_rank_norm": ("final_data.csv", "Model", "Effective Rank"),
    "ifeval": ("benchmark.csv", "fullname", "IFEval"),
    "bbh": ("benchmark.csv", "fullname", "BBH"),
    "mmlu_pro": ("benchmark.csv", "fullname", "MMLU-PRO"),
    "spc_f1": ("spc.csv", "model_id", "token_f1"),
    "spc_exact_match": ("spc.csv", "model_id", "EM"),
    "ar_accuracy": ("ar.csv", "model_id", "accuracy"),
    "ar_overconfidence": ("ar.csv", "model_id", "overconfidence"),
    "ar_underconfidence": ("ar.csv", "model_id", "underconfidence"),
}


@pytest.mark.parametrize("column", FROM)
def test_every_figure_is_the_published_one(paper: Path, column: str) -> None:
    file, names, place = FROM[column]
    with (paper / file).open(newline="") as lines:
        published = {row[names]: float(row[place]) for row in csv.DictReader(lines)}
    ours = {row["model"]: row for row in published_rows()}
    assert len(ours) == len(published) == 8
    by_short_name = {row["short_name"]: row for row in ours.values()}
    for name, value in published.items():
        row = ours.get(name) or by_short_name[name]
        assert row[column] == pytest.approx(value, abs=5e-10)


@pytest.mark.parametrize(
    ("column", "how"),
    [
        ("entropy_floor", ("mean_next_token_entropy", min)),
        ("participation_ratio_norm", ("participation_ratio", max)),
        ("effective_rank_norm", ("effective_rank", max)),
    ],
)
def test_profiles_are_the_extremes_over_the_schedule_we_state(
    paper: Path, column: str, how: tuple[str, object]
) -> None:
    name, extreme = how
    with (paper / "LPP.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if int(row["prefix_tokens"]) in PREFIXES]
    for ours in published_rows():
        values = [float(row[name]) for row in rows if row["model_id"] == ours["model"]]
        assert len(values) == len(PREFIXES) == 14
        assert ours[column] == pytest.approx(extreme(values), abs=5e-10)  # type: ignore[operator]


def test_flags_are_those_the_published_prefixes_tell(paper: Path) -> None:
    """`normaliser` and `template` made anew from the figures by prefix and the models' widths."""
    widths = {
        **{"Qwen-0.5B": 896, "Qwen-1.5B": 1536, "Qwen-3B": 2048, "Qwen-7B": 3584},
        **{"Qwen-14B": 5120, "Llama-3B": 3072, "Llama-8B": 4096, "Mistral-7B": 4096},
    }
    with (paper / "LPP.csv").open(newline="") as lines:
        every = [row for row in csv.DictReader(lines) if int(row["prefix_tokens"]) in PREFIXES]
    names = {ours["model"]: ours["short_name"] for ours in published_rows()}

    def tokenizer(row: dict[str, str]) -> str:
        return row["model_id"].partition("/")[0]  # one for each maker, of these eight

    for ours in published_rows():
        rows = [row for row in every if row["model_id"] == ours["model"]]
        width = widths[ours["short_name"]]
        flags = {"no_error"}
        for rank in ("participation_ratio", "effective_rank"):
            share = [float(row[rank]) for row in rows]
            bounds = [min(N_PROMPTS * int(row["prefix_tokens"]), width) for row in rows]
            peak = int(np.argmax(share))
            if peak != np.argmax(np.multiply(share, bounds)) or bounds[peak] < width:
                flags.add("normaliser")
        floor = min(rows, key=lambda row: float(row["mean_next_token_entropy"]))
        prefix = floor["prefix_tokens"]
        used = [  # dimensions there, of every model that reads the same tokens
            float(row["effective_rank"])
            * min(N_PROMPTS * int(prefix), widths[names[row["model_id"]]])
            for row in every
            if row["prefix_tokens"] == prefix and tokenizer(row) == tokenizer(floor)
        ]
        if max(used) < 1.1 * int(prefix):  # the same tokens in nearly every prompt
            flags.add("template")
        assert ours["flags"] == sorted(flags)


def test_the_table_is_marked_and_cited() -> None:
    table = published_table()
    assert table.schema.equals(arrow_schema("published"))
    rows = table.to_pylist()
    assert len({row["model"] for row in rows}) == 8
    assert {row["source"] for row in rows} == {"published"}
    assert all("2605.30018" in row["citation"] for row in rows)
    assert all(value is not None for row in rows for value in row.values())
    (small,) = [row for row in rows if row["model"] == "Qwen/Qwen2.5-0.5B-Instruct"]
    assert small["n_parameters"] == 500_000_000
    assert (small["context"], small["n_prompts"], small["corpus"]) == (150, 100, "alpaca")


def test_ties_of_nominal_sizes_matter() -> None:
    """Entropy x BBH with size held constant: three ties among eight sizes move it by .17."""
    rows = published_rows()
    exact = {  # as the weights are counted
        "Qwen-0.5B": 494_032_768,
        "Qwen-1.5B": 1_543_714_304,
        "Qwen-3B": 3_085_938_688,
        "Qwen-7B": 7_615_616_512,
        "Qwen-14B": 14_770_033_664,
        "Llama-3B": 3_212_749_824,
        "Llama-8B": 8_030_261_248,
        "Mistral-7B": 7_241_732_096,
    }
    entropy, bbh, nominal = (
        np.array([row[name] for row in rows]) for name in ("entropy_floor", "bbh", "nominal_size_b")
    )
    counted = np.array([exact[row["short_name"]] for row in rows], dtype=float)
    found = [associate("rank_partial", entropy, bbh, size) for size in (nominal, counted)]
    assert [round(one.coefficient, 2) for one in found if one] == [0.42, 0.25]


def test_sizes_are_what_the_names_say() -> None:
    for row in published_rows():
        assert f"{row['nominal_size_b']:g}B" == row["short_name"].split("-")[1]
