"""What is fuzzed: every reader of bytes that may come from a stranger.

A target takes any bytes and hands them to a reader as the file that it reads. The reader may refuse
them with an `LppError`, and must refuse them or return what it promises: no other exception, no
crash of a library below, no memory beyond the limit that the runner sets. Records are sealed anew,
or a checksum would keep everything else from being reached.
"""

import atexit
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from lpp.analyze.cache import Cache
from lpp.analyze.read_lm_eval import read_lm_eval
from lpp.analyze.read_score_table import read_score_table
from lpp.analyze.score_rows import ScoreFile, check_alike, check_once, check_units
from lpp.store import open_store
from lpp.store.arrays.hidden import read_site
from lpp.store.arrays.layout import check_site
from lpp.store.errors import ErrorKind, FormatError, LppError
from lpp.store.format.documents import canonical_json, load_json, parse_document, pretty_json
from lpp.store.format.keys import COMMIT_KEY, ROOT_KEY
from lpp.store.format.plan import SiteSpec, differences, parse_plan
from lpp.store.format.record import read_commit, self_checksum
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import PROMPTS_SCHEMA, SCORES_SCHEMA, TOKENS_SCHEMA, read_table
from lpp.store.heartbeat import writers
from lpp.store.read import Run
from lpp.store.scores import read_scores, verify_scores
from lpp.store.store import RootDocument
from lpp.store.verify import verify_run

GOLDEN: Final = Path(__file__).parents[1] / "store" / "golden" / "v1"
RUN: Final = "model-1b-untrained-fec2ad35"
SITE: Final = SiteSpec(name="final", convention="post_norm", width=2)
ROWS: Final = 3
"""Of the golden store's first shard."""


@cache
def folder() -> Path:
    """A copy of the golden store, gone with the process; a fuzzer's parent takes it away."""
    logging.getLogger("lpp").setLevel(logging.ERROR)  # the cache logs what it does not take
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
    parse_document(RootDocument, parsed, "here")


def root(data: bytes) -> None:
    """`lpp.json`, as `open_store` and `lpp-sql` read it."""
    from lpp.sql.place import store_root

    place = folder().parent / "root"
    place.mkdir(exist_ok=True)
    (place / ROOT_KEY).write_bytes(data)
    opened = True
    try:
        open_store(place)
    except FormatError:
        opened = False
    try:
        store_root(place)
    except FormatError:
        return
    assert opened or b"." in data or len(data) > 30


def plan(data: bytes) -> None:
    """`plan.json`."""
    parsed = parse_plan(load_json(data, "here"), "here")
    assert parsed.run_id
    assert differences(parsed, parsed) == []
    differences(parsed, golden().plan)


def commit(data: bytes) -> None:
    """`COMMIT.json`: as it is, and sealed anew."""
    place = folder().parent / "commit"
    place.mkdir(exist_ok=True)
    for content in (data, _sealed(data)):
        (place / COMMIT_KEY).write_bytes(content)
        try:
            record = read_commit(place)
        except FormatError:
            continue
        assert all(".." not in key.split("/") for key in record.objects)


def shard(data: bytes) -> None:
    """A whole run whose first shard's record is `data`, sealed: `verify` raises nothing."""
    record = folder() / "runs" / RUN / "shards" / "00000" / COMMIT_KEY
    good = golden().shards[0]
    record.write_bytes(_sealed(data))
    problems = verify_run(record.parents[2])
    assert problems or read_commit(record.parent).objects == good.commit.objects


def _sealed(data: bytes) -> bytes:
    try:
        parsed = json.loads(data)
        if isinstance(parsed, dict):
            return pretty_json(parsed | {"self_xxh3_128": self_checksum(parsed)})
    except (ValueError, RecursionError):
        pass
    return data


def _table(data: bytes, schema: pa.Schema, rows: int) -> pa.Table:
    path = folder().parent / "table"
    path.write_bytes(data)
    table = read_table(path, schema, rows=rows)
    assert table.num_rows == rows
    assert table.schema.equals(schema)
    table.to_pylist()
    return table


def tokens(data: bytes) -> None:
    """`tokens.arrow`."""
    tokens_problems(_table(data, TOKENS_SCHEMA, ROWS), golden().prompts(), 0, 1)


def prompts(data: bytes) -> None:
    """`prompts.arrow`."""
    prompts_problems(_table(data, PROMPTS_SCHEMA, 2), golden().plan)


def scores(data: bytes) -> None:
    """`scores.arrow`, beside the record of a source."""
    _table(data, SCORES_SCHEMA, 1)


def source(data: bytes) -> None:
    """The record of a source of scores."""
    place = folder().parent / "sources"
    (place / "benchmarks" / "x-00000000").mkdir(parents=True, exist_ok=True)
    (place / "benchmarks" / "x-00000000" / COMMIT_KEY).write_bytes(_sealed(data))
    verify_scores(place)
    read_scores(place)


def site(data: bytes) -> None:
    """A site's metadata and its object, the one after the other: two bytes say where."""
    at = int.from_bytes(data[:2], "little")
    group = folder().parent / "group"
    place = group / SITE.name
    (place / "c" / "0").mkdir(parents=True, exist_ok=True)
    (place / "zarr.json").write_bytes(data[2 : 2 + at])
    (place / "c" / "0" / "0").write_bytes(data[2 + at :])
    check_site(group, "here", SITE, "bfloat16", ROWS)
    blocks = list(read_site(group, SITE.name, rows=ROWS, block_rows=8))
    assert np.concatenate(blocks).shape == (ROWS, SITE.width)


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
    kept.folder.mkdir(parents=True, exist_ok=True)
    for name in ("final.arrow", "final.values.arrow"):
        (kept.folder / name).write_bytes(data)
    kept.summaries("final")
    kept.values("final")


def lm_eval(data: bytes) -> None:
    """A results file of lm-eval."""
    _checked(read_lm_eval(data, "results.json"))


def score_table(data: bytes) -> None:
    """A table of scores; the first byte says in which format."""
    suffix = ("csv", "tsv", "parquet")[data[0] % 3 if data else 0]
    _checked(read_score_table(data[1:], f"scores.{suffix}"))


def _checked(file: ScoreFile) -> None:
    assert all(np.isfinite(score.value) for score in file.scores)
    check_once(file.scores)
    check_alike(file.scores)
    check_units(file.scores, "auto")


_ALL: Final[tuple[Callable[[bytes], None], ...]] = (
    document,
    root,
    plan,
    commit,
    shard,
    tokens,
    prompts,
    scores,
    source,
    site,
    sign,
    spectra,
    lm_eval,
    score_table,
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
