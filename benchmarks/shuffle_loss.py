"""How far the loss of an autoencoder depends on the order of its rows.

A TopK autoencoder of SmolLM2's block 15 is trained for one epoch on rows in a full permutation, as
the feed gives them with a buffer for a half and for an eighth of them, and as they lie in the
store, one kind of text after the other. Ten CPU minutes:

    python -m benchmarks.shuffle_loss docs/pictures/shuffle-loss.svg
"""

import argparse
import asyncio
import encodings
import itertools
import math
import pydoc
import random
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from benchmarks.feed_cost import units_by_batch
from benchmarks.setting import scratch
from lpp.analyze.charts.export import save_chart
from lpp.analyze.charts.run_styles import OTHERS
from lpp.analyze.charts.theme import PLOT_HEIGHT, alt, finished
from lpp.capture import capture
from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.store import Run
from lpp.store.arrays.layout import chunk_rows
from lpp.store.feed import rows
from lpp.store.feed.epoch import LEAST_SPANS, Order
from lpp.store.feed.spans import Spans

SITE: Final = "block.15"
OF_KIND: Final = 110
"""Prompts of each kind of text: six kinds of 110 prompts are 132,000 rows."""
SEEDS: Final = 5
SHARES: Final = (2, 8)
"""The buffer of the feed holds one row in so many."""
BATCH: Final = 256
FEATURES: Final = 1024
ACTIVE: Final = 16
LEARNING_RATE: Final = 1e-3
LARGER: Final = 32
"""An order is also that of a feed of so many times the rows: with as many times the chunks."""
AS_LARGER: Final = f"feed, 1/{SHARES[-1]} of {LARGER} times the chunks"
HELD_OUT: Final = "prompt_id % 10 = 0"
"""Prompts of every kind, since each has the same number of them."""


def kinds_of_text() -> tuple[Iterable[str], ...]:
    """Prose, code, HTML, names of characters, tables of characters, numbers: of the bundled corpus
    and Python's standard library.
    """
    rng = random.Random(0)
    return (
        (passage.text for passage in pydoc_passages()),
        _sources(asyncio),
        (pydoc.HTMLDoc().docmodule(m) for m in (argparse, asyncio, random)),
        (unicodedata.name(chr(k), "") + "\n" for k in range(0xA0, 0x2400)),
        _sources(encodings),
        (f"{rng.gauss(0, 1):.4f}, {rng.randrange(10**6)}\n" for _ in itertools.count()),
    )


def _sources(package: ModuleType) -> Iterator[str]:
    for path in sorted(Path(str(package.__file__)).parent.glob("*.py")):
        yield path.read_text("utf-8")


def pieces(texts: Iterable[str], count: int, length: int = 1000) -> list[str]:
    """`count` texts of `length` characters: 200 tokens, or nearly, of any kind."""
    text = ""
    for more in texts:
        text += more
        if len(text) >= count * length:
            return [text[k * length : (k + 1) * length] for k in range(count)]
    raise ValueError(f"{len(text)} characters for {count} pieces of {length}")


def captured(store: Path, of_kind: int = OF_KIND) -> Run:
    """The run whose rows are fed: one kind of text after the other."""
    texts = [piece for texts in kinds_of_text() for piece in pieces(texts, of_kind)]
    return capture("demo", texts, store=store, sites=[SITE], logit_positions="schedule")


class TopK(nn.Module):
    """A sparse autoencoder whose `active` largest features of each row are not 0."""

    def __init__(self, width: int, features: int, active: int) -> None:
        super().__init__()
        decoder = nn.functional.normalize(torch.randn(features, width), dim=1)
        self.decoder, self.encoder = nn.Parameter(decoder), nn.Parameter(decoder.T.clone())
        self.bias, self.active = nn.Parameter(torch.zeros(width)), active

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) rows as the features rebuild them."""
        largest = torch.relu((x - self.bias) @ self.encoder).topk(self.active, dim=1)
        code = torch.zeros(len(x), len(self.decoder)).scatter(1, largest.indices, largest.values)
        return code @ self.decoder + self.bias


def unexplained(sae: TopK, x: Tensor) -> float:
    """Share of the variance of `x` that `sae` does not rebuild."""
    with torch.no_grad():
        return float((x - sae(x)).square().sum() / (x - x.mean(dim=0)).square().sum())


def train(
    batches: Iterable[Tensor], steps: int, seed: int, test: Tensor, points: int = 12
) -> list[tuple[int, float]]:
    """(rows so far, loss on `test`) at about `points` steps and the last. The learning rate falls
    to 0 over the last fifth of the steps.
    """
    torch.manual_seed(seed)
    sae = TopK(test.shape[1], FEATURES, ACTIVE)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LEARNING_RATE)
    seen, losses = 0, list[tuple[int, float]]()
    for step, x in enumerate(batches):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, 5 * (1 - step / steps))
        loss = (x - sae(x)).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(x)
        if step % max(1, steps // points) == 0 or step == steps - 1:
            losses.append((seen, unexplained(sae, test)))
    return losses


def measure(run: Run, seeds: int = SEEDS, shares: Sequence[int] = SHARES) -> pl.DataFrame:
    """Losses on the held-out prompts: columns order, seed, rows, loss; the permutation first."""
    raw, test = (_in_order(run, where) for where in (f"not {HELD_OUT}", HELD_OUT))
    mean = raw.mean(dim=0)
    factor = raw.shape[1] ** 0.5 / (raw - mean).norm(dim=1).mean()
    in_file, test = (raw - mean) * factor, (test - mean) * factor
    bytes_stored = 2 * raw.numel()  # in bfloat16

    def batches_of(order: str, seed: int) -> Iterable[Tensor]:
        if order == AS_LARGER:
            return (in_file[units] for units in _as_of_a_larger_run(len(raw), seed))
        if order.startswith("feed"):
            share = bytes_stored // int(order.rpartition("/")[2])
            buffer = max(share, LEAST_SPANS * 2 * raw.shape[1] * chunk_rows(raw.shape[1], 2))
            scaled = {"center": True, "scale": "sqrt_d", "seed": seed}
            fed: Iterable[Tensor] = _feed(run, f"not {HELD_OUT}", buffer=buffer, **scaled)
            return fed
        indices = torch.arange(len(raw))
        if order == "permutation":
            generator = torch.Generator().manual_seed(seed)
            indices = torch.randperm(len(raw), generator=generator)
        return (in_file[part] for part in indices.split(BATCH))

    steps = math.ceil(len(raw) / BATCH)
    return pl.DataFrame(
        [
            {"order": order, "seed": seed, "rows": seen, "loss": loss}
            for order in (
                *("permutation", *(f"feed, 1/{n}" for n in shares)),
                AS_LARGER,
                "file order",
            )
            for seed in range(seeds)
            for seen, loss in train(batches_of(order, seed), steps, seed, test)
        ]
    )


def _as_of_a_larger_run(n_rows: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each batch if a chunk had fewer rows: the buffer, an eighth of them, holds as
    many chunks as that of a run of `LARGER` times the rows.
    """
    chunk = max(1, chunk_rows(576, 2) // LARGER)
    spans = Spans(edges=np.append(np.arange(0, n_rows, chunk), n_rows), kept=None)
    buffer = max(n_rows // SHARES[-1], BATCH + chunk)
    order = Order(batch=BATCH, seed=seed, capacity=buffer, rank=0, world=1, drop_last=False)
    return units_by_batch(order, spans)


def _feed(run: Run, where: str, **options: Any) -> Any:
    """Rows without the first two positions and without outliers: three rows of 132,000 are up to
    180 times as long as the others, and decided the loss of each seed.
    """
    usual = "position >= 2 and length <= 10 * median_length"
    return rows(run, SITE, batch=BATCH, where=f"{usual} and {where}", **options)


def _in_order(run: Run, where: str) -> Tensor:
    """(n, d) the same rows in the order of the store."""
    feed = _feed(run, where, dtype="float32")
    batches = [(batch, feed.ids) for batch in feed]
    order = np.concatenate([ids for _, ids in batches]).argsort()
    return torch.cat([batch for batch, _ in batches])[order]


def table(losses: pl.DataFrame) -> Iterator[str]:
    """Lines of Markdown: the last loss of each order, and its difference from the permutation's of
    the same seed.
    """
    last = losses.filter(pl.col("rows") == pl.col("rows").max()).sort("seed")
    orders = losses["order"].unique(maintain_order=True)
    of_order = {order: last.filter(order=order)["loss"].to_numpy() * 100 for order in orders}
    yield "| order of the rows | variance not explained, % | less that of the permutation |"
    yield "|---|---|---|"
    for order, loss in of_order.items():
        gap = loss - of_order["permutation"]
        spread = f"± {loss.std(ddof=1):.2f} ({loss.min():.2f} to {loss.max():.2f})"
        apart = f"{gap.mean():+.2f} ± {gap.std(ddof=1):.2f}" if gap.any() else "–"
        yield f"| {order} | {loss.mean():.2f} {spread} | {apart} |"


def picture(losses: pl.DataFrame) -> Any:
    """Loss by the rows so far: a line for each order and seed."""
    shown = losses.with_columns(pl.col("loss").round(4), pl.col("rows") / 1000)
    chart = alt.Chart(alt.InlineData(values=shown.to_dicts()), width=480, height=PLOT_HEIGHT)
    color = alt.Scale(range=list(OTHERS))
    lines = chart.mark_line(strokeWidth=1.2).encode(
        x=alt.X("rows:Q", title="thousands of rows so far"),
        y=alt.Y(
            "loss:Q",
            scale=alt.Scale(type="log", nice=False),
            title="variance not explained, other prompts",
            axis=alt.Axis(format=".0%"),
        ),
        color=alt.Color("order:N", scale=color, sort=None, legend=alt.Legend(title=None)),
        detail="seed:N",
    )
    ends = shown.filter(pl.col("rows") == pl.col("rows").max())
    means = ends.group_by("order", maintain_order=True).agg(pl.col("loss").mean())
    listed = ", ".join(f"{loss:.1%} by {order}" for order, loss in means.iter_rows())
    return finished(lines.properties(description=f"Variance not explained in the end: {listed}"))


def main(path: Path) -> None:
    """Capture, train, print the table and write the picture."""
    with scratch() as store:
        losses = measure(captured(store))
    print("\n".join(table(losses)))
    print(save_chart(picture(losses), path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
