"""A model along its training: a small Llama learns, its checkpoints are a curve of the report."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
from click.testing import CliRunner

from lpp.analyze.cli.command import main as analyze
from lpp.analyze.report.content import report
from lpp.capture.cli.command import main as capture
from lpp.capture.corpus.open import open_corpus
from lpp.sql import connect, saved_query
from lpp.store import open_store
from lpp.store.format.plan import Series

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
VOCABULARY = 320
LENGTH = 64
"""Tokens of a training row, and of a prompt."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `step-0` to `step-256` of one training on Python's language reference."""
    folder = tmp_path_factory.mktemp("training")
    texts = [passage.text for passage in open_corpus("pydoc").passages]
    tokenizer = trained_tokenizer(texts)
    stream = torch.tensor([i for text in texts for i in tokenizer(text).input_ids])
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(STEPS[-1] + 1):
        if step in STEPS:
            model.save_pretrained(folder / f"step-{step}")
            tokenizer.save_pretrained(folder / f"step-{step}")
        starts = torch.randint(len(stream) - LENGTH, (16,))
        rows = torch.stack([stream[start : start + LENGTH] for start in starts])
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return folder


def trained_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of exactly `VOCABULARY` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.slow
def test_a_training_is_a_curve_of_the_report(checkpoints: Path, tmp_path: Path) -> None:
    root = tmp_path / "lpp"
    runner = CliRunner(env={"COLUMNS": "80"})
    settings = [
        "run",
        "--series",
        "tiny",
        "--corpus",
        "pydoc",
        "--prompts",
        "12",
        "--context",
        "64",
        "--sites",
        "final",
    ]
    for step in STEPS:
        words = ["--model", str(checkpoints / f"step-{step}"), "--step", str(step)]
        done = runner.invoke(capture, [*settings, *words, "--store", str(root)])
        assert done.exit_code == 0, done.output
    runs = open_store(root).runs.values()
    assert {run.plan.model.series for run in runs} == {Series(name="tiny", step=n) for n in STEPS}
    done = runner.invoke(analyze, ["profile", str(root)])
    assert done.exit_code == 0, done.output

    found = report(str(root))
    for run in found.origin.runs:
        captured_at = run.run.split("-")[1]
        assert f"--series tiny \\\n  --step {captured_at} \\\n" in run.command
    (section,) = [section for section in found.sections if section.name == "training"]
    (chart,) = section.charts
    panels = chart.specifications()
    assert list(panels) == ["0", "1", "2"]
    names = ("entropy_floor", "participation_ratio", "effective_rank")
    drawn = {name: points(panel) for name, panel in zip(names, panels.values(), strict=True)}
    for curve in drawn.values():
        assert tuple(step for step, _ in curve) == STEPS
    floors = [value for _, value in drawn["entropy_floor"]]
    assert floors[0] == pytest.approx(1, abs=0.01)  # of ln V: the model knows nothing yet
    assert max(floors) == floors[0]
    assert floors[-1] < 0.7
    assert floors[0] > floors[4] > floors[-1]

    with connect(root) as connection:
        told = pl.DataFrame(connection.sql(saved_query("training").text).to_arrow_table())
    told = told.filter(pl.col("metric") == "entropy_floor")
    assert told["step"].to_list() == list(STEPS)
    assert told["value"].to_list() == pytest.approx(floors, rel=1e-3)
    assert told["stderr"].is_not_null().all()
    (first,) = [run for run in runs if run.plan.model.series == Series(name="tiny", step=0)]
    entropy = first.tokens().to_table(columns=["entropy"])["entropy"].to_numpy()
    assert entropy.mean() == pytest.approx(math.log(VOCABULARY), abs=0.01)


def points(panel: Any) -> list[tuple[int, float]]:
    """Step and value of each point of a panel."""
    (rows,) = panel["datasets"].values()
    return [(row["step"], row["value"]) for row in rows]
