"""Write the first inputs of each target, from the golden store: `python -m tests.fuzz.seeds`.

Files that a fuzzer found are kept beside them; both are replayed by `test_corpus.py`.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lpp.analyze.engine.cache import Cache
from lpp.analyze.runs.cells import Cell
from lpp.store import open_store
from lpp.store.arrays.blosc import compress
from lpp.store.arrays.chunk_index import encode_index
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import site_array
from lpp.store.arrays.metadata import metadata_bytes, metadata_document
from lpp.store.format.commit_record import checksum
from lpp.store.format.tables import SCORES_SCHEMA, VOCABULARY_SCHEMA, encode_table
from tests.fuzz.corpus import keep_inputs
from tests.fuzz.targets import GOLDEN, ROWS, RUN, SITE, seal

SHARD: Final = GOLDEN / "runs" / RUN / "shards" / "00000"

LATER: Final = {
    "format": 3,
    "plan": "0" * 64,
    "shard": 1,
    "rows": 3,
    "base": "00112233445566ff",
    "quarantine": 1,
    "objects": {
        "hidden.zarr/final/c/0/0": {
            "bytes": 9,
            "xxh3_128": "0" * 32,
            "chunks": [{"bytes": 4, "xxh3_128": "1" * 32}, {"bytes": 3, "xxh3_128": "2" * 32}],
        }
    },
}
"""A record of this release, with everything that one may have."""

ITEMS: Final = (
    {
        "doc_id": 0,
        "doc": {"label": "easy"},
        "target": "0",
        "arguments": {
            "gen_args_0": {"arg_0": "Is 0 even?", "arg_1": " yes"},
            "gen_args_1": {"arg_0": "Is 0 even?", "arg_1": " no"},
        },
        "resps": [[["-1.5", "True"]], [["-2.5", "False"]]],
        "filter": "none",
        "metrics": ["acc"],
        "acc": 1.0,
        "doc_hash": "ab",
    },
    {
        "doc_id": 1,
        "doc": {},
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": "2 + 2 =", "arg_1": {"until": ["."]}}},
        "resps": [[" 4"]],
        "filter": "none",
        "metrics": ["exact_match"],
        "exact_match": 1.0,
        "doc_hash": "cd",
    },
)
"""Lines of a log of lm-eval: a choice and a generation."""

LM_EVAL: Final = {
    "results": {"hellaswag": {"alias": "hellaswag", "acc,none": 0.5, "acc_stderr,none": 0.01}},
    "n-shot": {"hellaswag": 5},
    "versions": {"hellaswag": 1.0},
    "n-samples": {"hellaswag": {"original": 10, "effective": 10}},
    "config": {"model": "hf", "model_args": "pretrained=lab/model", "limit": None},
    "model_name": "lab/model",
    "chat_template": None,
    "fewshot_as_multiturn": False,
}


def plain(path: Path) -> bytes:
    """The same table without compression: a fuzzer reaches more of it."""
    with pa.ipc.open_file(path) as reader:
        table = reader.read_all()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def carrying(path: Path) -> bytes:
    """The same prompts with what else they may carry, not compressed."""
    with pa.ipc.open_file(path) as reader:
        table = reader.read_all()
    columns = {
        "id": pa.array([7, None], pa.int64()),
        "text": pa.array(["the text", None]),
        "field.label": pa.array([None, "news"]),
        "field.score": pa.array([0.5, None]),
        "field.train": pa.array([True, False]),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return encode_table(table, compression=None)


def seeds() -> Mapping[str, list[bytes]]:
    """A few inputs of each target that its reader takes."""
    run = GOLDEN / "runs" / RUN
    record = (SHARD / "COMMIT.json").read_bytes()
    made = run / json.loads((run / "COMMIT.json").read_bytes())["base"]
    held = SHARD / json.loads(record)["base"]
    group = held / "hidden.zarr" / "final"
    metadata, content = (group / "zarr.json").read_bytes(), (group / "c/0/0").read_bytes()
    small = json.dumps(json.loads(metadata), separators=(",", ":")).encode()
    sites = [len(m).to_bytes(2, "little") + m + content for m in (metadata, small)]
    row: dict[str, Any] = {
        "model": "m",
        "run": None,
        "benchmark": "b",
        "metric": "acc",
        "value": 0.5,
        "stderr": None,
        "n": 3,
        "source": "s",
        "kind": "csv",
    }
    scores = pa.Table.from_pylist([row], schema=SCORES_SCHEMA)
    columns = {"id": [0, 1, 9], "bytes": [None, b" a", b"\xf0"], "text": ["<s>", " a", "\ufffd"]}
    words = pa.table(columns).cast(VOCABULARY_SCHEMA)
    parquet = io.BytesIO()
    pq.write_table(pa.table({"model": ["m"], "b": [1.5]}), parquet, compression="none")
    of_source = {
        "format": 3,
        "base": "0" * 16,
        "source": "s",
        "content": "0" * 64,
        "rows": 1,
        "replaces": [],
        "objects": {"scores.arrow": {"bytes": 3, "xxh3_128": checksum(b"abc")}},
    }
    return {
        "document": [record, b'{"a":[1,null,true,"\\u00e9"]}'],
        "root": [(GOLDEN / "lpp.json").read_bytes()],
        "plan": [(made / "plan.json").read_bytes()],
        "commit": [record, (run / "COMMIT.json").read_bytes(), seal(LATER)],
        "shard": [record],
        "tokens": [(held / "tokens.arrow").read_bytes(), plain(held / "tokens.arrow")],
        "prompts": [
            (made / "prompts.arrow").read_bytes(),
            plain(made / "prompts.arrow"),
            carrying(made / "prompts.arrow"),
        ],
        "scores": [encode_table(scores)],
        "vocabulary": [encode_table(words)],
        "source": [seal(of_source)],
        "site": [*sites, *(_site(*array) for array in arrays())],
        "chunks": [_chunked(*array) for array in arrays()],
        "sign": [b'{"doing": "part 1/2", "since": 1000.5}'],
        "spectra": kept(),
        "lm_eval": [json.dumps(LM_EVAL).encode()],
        "score_table": [
            b"\0model,a,a_stderr\nm,1.5,0.1\nn,,\n",
            b"\1model\tbenchmark\tmetric\tvalue\tn\nm\tb\tacc\t0.5\t3\n",
            b"\0fullname,IFEval,BBH,#Params (B)\nlab/m,30.5,40,7\n",
            b"\2" + parquet.getvalue(),
        ],
        "item_log": [b"\n".join(map(_compact, ITEMS)), *map(_compact, ITEMS)],
    }


def _compact(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def arrays() -> list[tuple[bytes, list[bytes], bytes]]:
    """Metadata, chunks and index of the rows of a site: in one chunk, and in a chunk for each."""
    rows = np.arange(1, 1 + ROWS * SITE.width, dtype=np.uint16).reshape(ROWS, SITE.width) << 7
    spec = site_array(SITE, "bfloat16", ROWS)
    one = encode_array(spec, rows)
    document = metadata_document(spec)
    document["codecs"][0]["configuration"]["chunk_shape"][0] = 1
    packed = [compress(np.ascontiguousarray(row)) for row in rows[:, None]]
    return [
        (one.metadata, list(one.parts[:-1]), one.parts[-1]),
        (metadata_bytes(document), packed, encode_index(map(len, packed))),
    ]


def _site(metadata: bytes, packed: list[bytes], index: bytes) -> bytes:
    return len(metadata).to_bytes(2, "little") + metadata + b"".join(packed) + index


def _chunked(metadata: bytes, packed: list[bytes], index: bytes) -> bytes:
    sizes = b"".join(len(chunk).to_bytes(2, "little") for chunk in packed)
    return bytes([len(packed)]) + sizes + _site(metadata, packed, index)


def kept() -> list[bytes]:
    """A file of numbers kept by the cache."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder), open_store(GOLDEN).runs[RUN])
        cache.keep_values("final", {(Cell(1, 2), "two_nn"): 1.5})
        assert isinstance(cache.folder, Path)  # on a disk
        return [path.read_bytes() for path in cache.folder.rglob("*.arrow")]


def main() -> None:
    """Add them to the archives under the names of their checksums, as a fuzzer names its own."""
    for target, inputs in seeds().items():
        keep_inputs(target, {checksum(data): data for data in inputs})


if __name__ == "__main__":
    main()
