"""What is fuzzed: every reader of bytes that may come from a stranger.

A target takes any bytes and hands them to a reader as the file that it reads. The reader may refuse
them with an `LppError`, and must refuse them or return what it promises: no other exception, no
crash of a library below, no memory beyond the limit that the runner sets. Records are sealed anew,
or a checksum would keep everything else from being reached.
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lpp.analyze.engine.cache import Cache
from lpp.analyze.scores.item_table import join_items
from lpp.analyze.scores.read_lm_eval import read_lm_eval, read_lm_eval_items
from lpp.analyze.scores.read_score_table import read_score_table
from lpp.analyze.scores.score_table import SCORES, check_scores
from lpp.store import open_store
from lpp.store.arrays.chunk_index import index_bytes
from lpp.store.arrays.layout import ArrayLayout, site_array
from lpp.store.arrays.metadata import parse_layout
from lpp.store.arrays.reader import BytesSource, Chunk, check_object, read_rows, recorded_chunks
from lpp.store.committed.checked import open_checked
from lpp.store.errors import ErrorKind, FormatError, LppError
from lpp.store.format.commit_record import (
    ChunkRecord,
    CommitRecord,
    ScoresRecord,
    checksum,
    parse_record,
    seal_of,
)
from lpp.store.format.documents import (
    canonical_json,
    load_json,
    parse_document,
    wide_integers,
)
from lpp.store.format.keys import COMMIT_KEY, ROOT_KEY, VOCABULARY_KEY
from lpp.store.format.plan import SiteSpec, parse_plan, plan_differences
from lpp.store.format.prompt_columns import column_problems, is_prompt_column
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import (
    PROMPTS_SCHEMA,
    SCORES_SCHEMA,
    TOKENS_SCHEMA,
    read_table,
    table_schema,
)
from lpp.store.root import RootDocument
from lpp.store.runs.heartbeat import writers
from lpp.store.runs.read import Run
from lpp.store.runs.shards import run_directory
from lpp.store.runs.verify import verify_run
from lpp.store.scores.scores import read_scores, verify_scores
from lpp.store.shared.verify import verify_shared
from lpp.store.shared.vocabularies import read_vocabulary, vocabulary_name

GOLDEN: Final = Path(__file__).parents[1] / "store" / "golden" / "v3"
RUN: Final = "model-1b-untrained-2e503a04"
SITE: Final = SiteSpec(name="final", convention="post_norm", width=2)
ROWS: Final = 3
"""Of the golden store's first shard."""


@cache
def folder() -> Path:
    """A copy of the golden store, gone with the process; a fuzzer's parent takes it away."""
    made = tempfile.mkdtemp(prefix="lpp-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    root = Path(made) / "store"
    shutil.copytree(GOLDEN, root)
    return root


@cache
def golden() -> Run:
    """The run of that copy, before anything was written over."""
    run = open_store(folder()).runs[RUN]
    _ = run.plan, run.shards
    return run


def document(data: bytes) -> None:
    """Any document: what parses is written and parsed again alike."""
    parsed = load_json(data, "here")
    assert load_json(canonical_json(parsed), "here") == parsed
    wide_integers(parsed)
    parse_document(RootDocument, parsed, "here")


def root(data: bytes) -> None:
    """`lpp.json`."""
    place = folder().parent / "root"
    place.mkdir(exist_ok=True)
    (place / ROOT_KEY).write_bytes(data)
    assert open_store(place).runs == {}


def plan(data: bytes) -> None:
    """`plan.json`."""
    parsed = parse_plan(load_json(data, "here"), "here")
    assert parsed.run_id
    assert plan_differences(parsed, parsed) == []
    plan_differences(parsed, golden().plan)


def commit(data: bytes) -> None:
    """`COMMIT.json`: as it is, and sealed anew; of either kind."""
    for content in (data, _sealed(data)):
        for kind in (CommitRecord, ScoresRecord):
            try:
                record = parse_record(kind, content, "here")
            except FormatError:
                continue
            assert not {"", ".", ".."} & {p for key in record.objects for p in key.split("/")}
            assert "/" not in record.base
            assert "." not in record.base
            for recorded in record.objects.values():
                assert sum(chunk.bytes for chunk in recorded.chunks) <= recorded.bytes


def shard(data: bytes) -> None:
    """A whole run whose first shard's record is `data`, sealed: `verify` raises nothing."""
    record = folder() / "runs" / RUN / "shards" / "00000" / COMMIT_KEY
    good = golden().shards[0]
    record.write_bytes(_sealed(data))
    problems = verify_run(record.parents[2])
    if not problems:
        directory = run_directory(record.parents[2]).below(f"shards/{record.parent.name}")
        found = open_checked(directory, CommitRecord).record
        assert {k: of.whole for k, of in found.objects.items()} == {
            k: of.whole for k, of in good.record.objects.items()
        }


def seal(document: Mapping[str, Any]) -> bytes:
    """A record of the content of `document`, whatever that is, whose seal is right."""
    return canonical_json({**document, "self_xxh3_128": seal_of(document)})


def _sealed(data: bytes) -> bytes:
    try:
        parsed = json.loads(data)
        if isinstance(parsed, dict):
            return seal(parsed)
    except (ValueError, RecursionError):
        pass
    return data


def _table(data: bytes, schema: pa.Schema, rows: int, extra: int | None = 0) -> pa.Table:
    path = folder().parent / "table"
    path.write_bytes(data)
    table = read_table(path, schema, rows=rows, extra=extra)
    assert table.num_rows == rows
    assert table.schema.equals(schema)
    table.to_pylist()
    return table


def tokens(data: bytes) -> None:
    """`tokens.arrow`."""
    tokens_problems(_table(data, TOKENS_SCHEMA, ROWS), golden().prompts(), 0, 1)


def prompts(data: bytes) -> None:
    """`prompts.arrow`."""
    table = _table(data, PROMPTS_SCHEMA, 2)
    found = table_schema(folder().parent / "table")
    extra = pa.schema([field for field in found if is_prompt_column(field.name)])
    if not column_problems(extra):
        table = _table(data, pa.schema([*PROMPTS_SCHEMA, *extra]), 2, extra=None)
    prompts_problems(table, golden().plan)


def scores(data: bytes) -> None:
    """`scores.arrow`, beside the record of a source."""
    _table(data, SCORES_SCHEMA, 1)


def vocabulary(data: bytes) -> None:
    """`vocabulary.arrow`, under a record that fits its bytes."""
    place = folder().parent / "words"
    directory = place / "vocabularies" / vocabulary_name("f")
    base = "0" * 16
    (directory / base).mkdir(parents=True, exist_ok=True)
    (directory / base / VOCABULARY_KEY).write_bytes(data)
    described = {"bytes": len(data), "xxh3_128": checksum(data)}
    record = {"format": 3, "base": base, "tokenizer": "f", "rows": 3, "content": "0" * 64}
    record["objects"] = {VOCABULARY_KEY: described}
    (directory / COMMIT_KEY).write_bytes(seal(record))
    assert verify_shared(place)  # the content is another one, if it is a table
    found = read_vocabulary(place, "f")
    assert found is not None
    found.to_pylist()


def source(data: bytes) -> None:
    """The record of a source of scores."""
    place = folder().parent / "sources"
    (place / "benchmarks" / "x-00000000").mkdir(parents=True, exist_ok=True)
    (place / "benchmarks" / "x-00000000" / COMMIT_KEY).write_bytes(_sealed(data))
    verify_scores(place)
    read_scores(place)


def site(data: bytes) -> None:
    """A site's metadata and its object, the one after the other: two bytes say where.

    Read by the object's index, then by checksums of chunks in a record
    that fits the object: what both take is the same.
    """
    layout, content = _layout(data)
    source = BytesSource(content)
    found = []
    n = layout.n_chunks
    step = max(0, len(content) - index_bytes(n)) // n
    sizes = [*(step for _ in range(n - 1)), len(content) - index_bytes(n) - step * (n - 1)]
    for recorded in (None, _chunks(content, sizes)):
        try:
            chunks = None
            if recorded is not None:
                chunks = recorded_chunks(source, layout, recorded, where="here")
            check_object(source, layout, where="here", chunks=chunks)
            found.append(_rows(source, layout, chunks))
        except LppError:
            continue
    assert len(found) < 2 or found[0].tobytes() == found[1].tobytes()
    if not found:
        raise FormatError("refused both ways", kind=ErrorKind.CORRUPT)


def chunks(data: bytes) -> None:
    """The same with what its record says of chunks: how many, and two bytes of size for each."""
    n = data[0] if data else 0
    sizes = [int.from_bytes(data[1 + 2 * k : 3 + 2 * k], "little") for k in range(n)]
    layout, content = _layout(data[1 + 2 * n :])
    source = BytesSource(content)
    recorded = _chunks(content, sizes)
    _rows(source, layout, recorded_chunks(source, layout, recorded, where="here"))


def _layout(data: bytes) -> tuple[ArrayLayout, bytes]:
    """The layout that the first bytes of `data` describe, and the bytes of its object."""
    at = 2 + int.from_bytes(data[:2], "little")
    layout = parse_layout(data[2:at], site_array(SITE, "bfloat16", ROWS), "here")
    assert 1 <= layout.chunk_rows <= layout.object_rows
    return layout, data[at:]


def _chunks(content: bytes, sizes: Sequence[int]) -> list[ChunkRecord]:
    """What a record says whose checksums are right."""
    ends = list(accumulate(sizes, initial=0))
    return [
        ChunkRecord(bytes=end - start, xxh3_128=checksum(content[max(start, 0) : max(end, 0)]))
        for start, end in pairwise(ends)
    ]


def _rows(
    source: BytesSource, layout: ArrayLayout, chunks: Sequence[Chunk] | None
) -> npt.NDArray[np.float32]:
    """Every row, and some of them again: the same."""
    whole = read_rows(source, layout, 0, ROWS, where="here", dtype="float32", chunks=chunks)
    assert whole.shape == (ROWS, SITE.width)
    some = read_rows(source, layout, 1, 2, where="here", dtype="float32", chunks=chunks)
    assert some.tobytes() == whole[1:2].tobytes()
    return whole


def sign(data: bytes) -> None:
    """The sign of a writer, which `lpp-capture status` shows."""
    place = folder().parent / "signs"
    place.mkdir(exist_ok=True)
    (place / ".writer~elsewhere~7~0a").write_bytes(data)
    (seen,) = writers(place)
    assert seen.doing.isprintable()


def spectra(data: bytes) -> None:
    """A file of kept results: what is damaged counts as nothing."""
    kept = Cache(folder(), golden())
    assert isinstance(kept.folder, Path)  # on a disk
    shutil.rmtree(kept.folder, ignore_errors=True)
    (kept.folder / "final").mkdir(parents=True)
    for kind in ("spectra", "values"):  # under the name that its bytes should have
        (kept.folder / kept._files.name("final", kind, data)).write_bytes(data)
    kept.summaries("final")
    kept.values("final")


def lm_eval(data: bytes) -> None:
    """A results file of lm-eval."""
    _checked(read_lm_eval(data, "results.json"))


def score_table(data: bytes) -> None:
    """A table of scores; the first byte says in which format."""
    suffix = ("csv", "tsv", "parquet")[data[0] % 3 if data else 0]
    _checked(read_score_table(data[1:], f"scores.{suffix}"))


def item_log(data: bytes) -> None:
    """Items that lm-eval logged, a line each."""
    items = read_lm_eval_items(data, "samples.jsonl", "task", "label")
    table, n_joined = join_items(items, {}, source="s", model="m")
    assert (len(table), n_joined) == (len(items), 0)


def _checked(scores: pl.DataFrame) -> None:
    assert scores.schema == SCORES
    assert scores["value"].drop_nulls().is_finite().all()
    check_scores(scores.drop_nulls("value"), "auto")


_ALL: Final[tuple[Callable[[bytes], None], ...]] = (
    document,
    root,
    plan,
    commit,
    shard,
    tokens,
    prompts,
    scores,
    vocabulary,
    source,
    site,
    chunks,
    sign,
    spectra,
    lm_eval,
    score_table,
    item_log,
)


def _forgiving(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def call(data: bytes) -> None:
        try:
            target(data)
        except LppError as error:
            if not (str(error) and error.kind in ErrorKind):
                raise RuntimeError("an error without words") from error

    return call


READERS: Final = {target.__name__: target for target in _ALL}
"""By name; each takes any bytes, and may raise `LppError`."""

TARGETS: Final = {name: _forgiving(reader) for name, reader in READERS.items()}
"""The same, and raise nothing."""
