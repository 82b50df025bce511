"""What the k most likely tokens of a teacher leave out, and what they cost beside the exact one.

p is the distribution of the next token of one row of `final`, over all V tokens.

    left_out   1 - the sum of p over the k most likely tokens
    kl_bias    KL(q || p) = -ln(1 - left_out), where q is p over these k tokens, divided by its sum.
               A student that learns q without error is so far from the teacher.
    kl_noise   the standard deviation of the loss of a token, whose target is the mean of -ln of the
               student over n samples of p, where the student is p: the root of varentropy / n

KL(p || q) is infinite: q excludes tokens. Samples have no bias (Anshumann et al. 2025, arXiv
2503.16870), but noise. Rows pass in tiles; numbers by token are kept, none by token of V.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lpp.analyze.exports.targets import TARGETS, WRITING, final_rows, target_table
from lpp.analyze.quantities.tables import frame_schema
from lpp.analyze.questions import TeacherSettings
from lpp.sql.schema.columns import RUN, Column
from lpp.store.arrays.layout import NUMPY_DTYPE
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.keys import HIDDEN_KEY
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.teacher import Targets, Teacher, teacher

COLUMNS: Final = (
    RUN,
    Column("targets", "VARCHAR", "topk: the most likely; sampled: drawn; exact: `final`"),
    Column("count", "INTEGER", "number of targets of a token; null: the whole vocabulary"),
    Column("left_out", "DOUBLE", "probability of the tokens left out, mean over tokens", "share"),
    Column("left_out_p95", "DOUBLE", "95th percentile over tokens of left_out", "share"),
    Column("kl_bias", "DOUBLE", "KL(q || p) = -ln(1 - left_out), mean over tokens", "nats"),
    Column("kl_noise", "DOUBLE", "standard deviation of a token's loss, by sampling", "nats"),
    Column("token_bytes", "DOUBLE", "stored bytes of a token", "bytes"),
    Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
)

MEASURED_TOKENS: Final = 4096
"""Tokens whose targets are written, to count the bytes of Parquet."""

PIECE: Final = 1 << 20
"""Probabilities that are sorted together, 4 MiB."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TargetCosts:
    """Targets of one run side by side."""

    rows: pl.DataFrame
    """`COLUMNS`: a row for each k, then for each number of samples, then the exact one."""
    n_prompts: int
    n_tokens: int
    """Tokens behind the means."""
    head_bytes: int
    """Bytes of the matrix of the head, which the exact teacher needs once."""


def target_costs(
    run: Run, settings: TeacherSettings = TeacherSettings(), *, progress: Progress = SILENT
) -> TargetCosts:
    """What each number of targets leaves out and costs. progress: advances by the tokens of a tile.

    A k above the vocabulary is left out. Raises InputError for a run without rows of `final` or
    without its head, for a number below 1, and where no prompt can be read; FormatError for altered
    bytes.
    """
    source = teacher(run)
    prompts = np.flatnonzero(run.analysed_lengths[: settings.prompts])
    if not len(prompts):
        raise InputError(
            f"run {run.id} has no prompt to measure: its first shard is not committed. Repeat its "
            "`lpp-capture run` command.",
            kind=ErrorKind.INCOMPLETE,
        )
    wanted, samples = sorted({*settings.k}), sorted({*settings.samples})
    if min([*wanted, *samples, 1]) < 1:
        raise InputError("k and samples are 1 or more.", kind=ErrorKind.INVALID_VALUE)
    ks = [k for k in wanted if k <= source.head.vocabulary]
    if len(ks) < len(wanted):
        progress.warn(f"k above {source.head.vocabulary:,}, the vocabulary, is left out.")
    progress.expect(int(run.lengths[prompts].sum()))
    left, variances = [], []
    for block in run.blocks("final", prompts=int(prompts[-1]) + 1):
        for _, logp in source.logprobs(block.values, settings.temperature):
            part = left_out(logp, ks)
            left.append(part[0])
            variances.append(part[1])
            progress.advance(len(logp))
    out, variance = np.concatenate(left), float(np.concatenate(variances).mean())
    sizes = _parquet_bytes(source, prompts, ks, samples, settings.temperature)
    rows: list[tuple[Any, ...]] = []
    for k, of_k in zip(ks, out.T, strict=True):
        p95, bias = float(np.quantile(of_k, 0.95)), float(-np.log1p(-of_k).mean())
        rows.append(("topk", k, float(of_k.mean()), p95, bias, 0.0, sizes["topk", k], []))
    for n in samples:
        noise = (variance / n) ** 0.5
        rows.append(("sampled", n, None, None, 0.0, noise, sizes["sampled", n], []))
    flags = ["lossy"] if source.lossy else []
    exact = None if source.lossy else 0.0
    rows.append(("exact", None, 0.0, 0.0, exact, 0.0, _final_bytes(run), flags))
    frame = pl.DataFrame(
        [(run.id, *row) for row in rows], schema=frame_schema(COLUMNS), orient="row"
    )
    head = source.head
    return TargetCosts(
        rows=frame,
        n_prompts=len(prompts),
        n_tokens=len(out),
        head_bytes=head.vocabulary * head.width * np.dtype(NUMPY_DTYPE[head.dtype]).itemsize,
    )


def left_out(logp: npt.NDArray[np.float32], ks: Sequence[int]) -> tuple[Floats, Floats]:
    """The probability that each k leaves out, (n, len(ks)), and the variance of ln p, (n,).

    logp: (n, V), overwritten. ks: ascending, at most V.
    """
    n, vocabulary = logp.shape
    left, variance = np.empty((n, len(ks))), np.empty(n)
    last, step = max(ks, default=1), max(1, PIECE // vocabulary)
    for start in range(0, n, step):
        part = slice(start, start + step)
        p = np.exp(logp[part])
        np.maximum(logp[part], np.float32(-110), out=logp[part])  # 0 * -inf is no number
        mean = np.vecdot(p, logp[part])
        variance[part] = np.vecdot(p, (logp[part] - mean[:, None]) ** 2)
        p.partition(vocabulary - last, axis=1)
        tail = p[:, : vocabulary - last].sum(axis=1, dtype=np.float64, keepdims=True)
        kept = np.cumsum(-np.sort(-p[:, vocabulary - last :]), axis=1, dtype=np.float64)
        total = kept[:, -1:] + tail
        left[part] = (total - kept[:, np.asarray(ks, int) - 1]) / total
    return left, variance


def _parquet_bytes(
    source: Teacher,
    prompts: npt.NDArray[np.int64],
    ks: Sequence[int],
    samples: Sequence[int],
    temperature: float,
) -> dict[tuple[str, int], float]:
    """Bytes of a token in the file of `lpp-analyze export`, from the first prompts."""
    n = np.searchsorted(np.cumsum(source.run.lengths[prompts]), MEASURED_TOKENS, "right")
    prompts = prompts[: max(1, n)]
    final, prompt_ids = final_rows(source.run, prompts)
    table = source.run.prompts().take(prompts)
    sizes: dict[tuple[str, int], float] = {}
    for kind, name, counts in (("topk", "k", ks), ("sampled", "samples", samples)):
        if not counts:
            continue
        targets = source.targets(
            final,
            **{name: max(counts)},
            prompt_ids=prompt_ids,
            temperature=temperature,
            like="numpy",
        )
        for count in counts:
            first = Targets(
                token_ids=targets.token_ids[:, :count], logprobs=targets.logprobs[:, :count]
            )
            sizes[kind, count] = _written_bytes(target_table(table, first, TARGETS)) / len(final)
    return sizes


def _written_bytes(table: pa.Table) -> int:
    """Bytes of the columns of a table in Parquet, without what a file has once."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=len(table), **WRITING)
    group = pq.read_metadata(pa.BufferReader(sink.getvalue())).row_group(0)
    return sum(group.column(k).total_compressed_size for k in range(group.num_columns))


def _final_bytes(run: Run) -> float:
    """Stored bytes of `final` a token."""
    stored = [
        item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.startswith(f"{HIDDEN_KEY}/final/")
    ]
    return sum(stored) / max(1, sum(shard.rows for shard in run.shards))
