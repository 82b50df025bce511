"""Published trainers of sparse autoencoders take a feed as their data, as they are."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_capture import make_capture

from benchmarks.peers import feeds
from lpp.store import Run
from lpp.store.feed import rows
from lpp.store.format.plan import SiteSpec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WIDTH, DIRECTIONS = 32, 48


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """12,000 rows, each the sum of three of 48 directions: what an autoencoder can find."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((DIRECTIONS, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = rng.random((12_000, DIRECTIONS)).argsort(axis=1)[:, :3]
    sums = directions[chosen].sum(axis=1).astype(np.float32)
    hidden = {"block.1": (sums.view(np.uint32) >> 16).astype(np.uint16)}
    site = SiteSpec(name="block.1", convention="residual", width=WIDTH)
    lengths = (20,) * 600
    made = make_capture(lengths, (0, 200, 600), hidden, sites=(site,), context=20, prefixes=(20,))
    return made.write(tmp_path_factory.mktemp("rows") / "store")


def unexplained(run: Run, rebuilt: Any) -> float:
    """Share of the variance of a feed's rows that `rebuilt` of them leaves."""
    batch = next(rows(run, "block.1", batch=4096, seed=9, dtype="float32"))
    with torch.no_grad():
        rest = batch - rebuilt(batch)
    return float(rest.var(dim=0).sum() / batch.var(dim=0).sum())


def test_saelens_trains_from_a_feed(run: Run) -> None:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=2 * DIRECTIONS, k=3))
    before = unexplained(run, sae)
    samples = 256 * 1000
    config = SAETrainerConfig(
        total_training_samples=samples, train_batch_size_samples=256, lr=2e-3, lr_end=2e-4
    )
    feed = rows(run, "block.1", batch=256, dtype="float32", epochs=None)
    SAETrainer(config, sae, feed).fit()
    assert unexplained(run, sae) < 0.35 < before


def test_the_lines_of_the_example_train(run: Run) -> None:
    """Those that a Markdown cell shows, at the width of this run."""
    notebook = json.loads((EXAMPLES / "train_an_autoencoder.ipynb").read_text("utf-8"))
    text = "".join(line for cell in notebook["cells"] for line in cell["source"])
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for name, here in (("block.15", "block.1"), ("=576", f"={WIDTH}"), ("300_000", "51_200")):
        assert name in lines
        lines = lines.replace(name, here)
    names: dict[str, Any] = {"run": run, "rows": rows}
    exec(lines, names)
    batch = next(rows(run, "block.1", center=True, scale="sqrt_d", seed=9))
    with torch.no_grad():
        rest = (batch - names["sae"](batch)).square().sum() / batch.square().sum()
    assert rest < 0.5


def test_dictionary_learning_trains_from_a_feed(run: Run, tmp_path: Path) -> None:
    from dictionary_learning.dictionary import AutoEncoder
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.training import trainSAE

    feed = rows(run, "block.1", batch=256, dtype="float32", epochs=None)
    config = {
        **{"trainer": StandardTrainer, "dict_class": AutoEncoder, "layer": 1, "lm_name": "m"},
        **{"activation_dim": WIDTH, "dict_size": 2 * DIRECTIONS, "device": "cpu", "seed": 0},
        **{"steps": 300, "warmup_steps": 10, "sparsity_warmup_steps": 10, "lr": 3e-3},
    }
    trainSAE(feed, [config], steps=300, device="cpu", save_dir=str(tmp_path))
    trained = AutoEncoder.from_pretrained(str(tmp_path / "trainer_0" / "ae.pt"), device="cpu")
    assert unexplained(run, trained) < 0.35


def test_a_stateful_loader_of_torchdata_resumes_a_feed(run: Run) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader() -> Any:
        return StatefulDataLoader(rows(run, "block.1", batch=512), batch_size=None, num_workers=2)

    whole = [batch.clone() for batch in loader()]
    stopped = loader()
    first = [batch.clone() for batch in islice(stopped, 5)]
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch.clone() for batch in resumed]
    assert len(whole) == len(first) + len(rest)
    assert all(map(torch.equal, whole, [*first, *rest]))


def test_each_side_of_the_benchmark_gives_its_rows(tmp_path: Path) -> None:
    run = feeds.repeated_run(tmp_path, prompts=3, times=8)
    cache = feeds.saelens_cache(run, tmp_path)
    assert feeds.ours(run)() == feeds.memmap(run, tmp_path)() == 4800
    assert feeds.saelens(run, cache, 24, 8)() == feeds.BATCH  # only whole batches
