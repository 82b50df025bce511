"""Damage to a store, one random act at a time, each undone after the check.

Acts on files know nothing of the format. Acts of a *liar* change the content of a shard and seal
its record again, so that every checksum is right: only the meaning can show the damage.
"""

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from sealed import reseal, seal
from stored import object_path

from lpp.store import Run
from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.layout import site_array
from lpp.store.format.documents import canonical_json
from lpp.store.format.tables import TOKENS_SCHEMA, encode_table, read_table

Snapshot: TypeAlias = Mapping[str, bytes | str | None]
"""Every name below a store: bytes of a file, target of a link, None for a directory."""


def snapshot(root: Path) -> Snapshot:
    """The store at `root` as it is."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        key = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[key] = str(path.readlink())
        else:
            found[key] = None if path.is_dir() else path.read_bytes()
    return found


def restore(root: Path, before: Snapshot) -> None:
    """Restore the store at `root` to `before`."""
    after = snapshot(root)
    for key in sorted(after, reverse=True):  # the content of a directory before the directory
        if key not in before or after[key] != before[key]:
            path = root / key
            if after[key] is None:
                shutil.rmtree(path)
            else:
                path.unlink()
    for key, content in before.items():
        if key in after and after[key] == content:
            continue
        if content is None:
            (root / key).mkdir(exist_ok=True)
        else:
            assert isinstance(content, bytes)
            (root / key).write_bytes(content)


Act: TypeAlias = Callable[[random.Random, Path], None]
"""Damages the run in a directory."""


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def _shards(run: Path) -> list[Path]:
    return sorted((run / "shards").iterdir())


def _edit(change: Callable[[random.Random, bytearray, int], None]) -> Act:
    """An act on one byte of a file that is not empty."""

    def act(rng: random.Random, run: Path) -> None:
        path = rng.choice(_files(run))
        data = bytearray(path.read_bytes())
        change(rng, data, rng.randrange(len(data)))
        path.write_bytes(data)

    return act


def _flip_bit(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] ^= 1 << rng.randrange(8)


def _set_byte(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] = rng.randrange(256)


def _insert(rng: random.Random, data: bytearray, at: int) -> None:
    data[at:at] = rng.randbytes(rng.randrange(1, 9))


def _delete(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + rng.randrange(1, 9)]


def _truncate(_: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


def _append(rng: random.Random, data: bytearray, _: int) -> None:
    data += rng.randbytes(rng.randrange(1, 65))


def _zero(rng: random.Random, data: bytearray, at: int) -> None:
    end = min(len(data), at + rng.choice((1, 16, 512)))
    data[at:end] = bytes(end - at)


def _whitespace(rng: random.Random, data: bytearray, at: int) -> None:
    spaces = [k for k, byte in enumerate(data) if byte in b" \n"]
    if spaces:
        data[rng.choice(spaces)] = rng.choice(b" \n\t")


def _remove(rng: random.Random, run: Path) -> None:
    rng.choice(_files(run)).unlink()


def _swap_files(rng: random.Random, run: Path) -> None:
    one, other = rng.sample(_files(run), 2)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def _swap_shards(rng: random.Random, run: Path) -> None:
    one, other = rng.sample(_shards(run), 2)
    aside = run / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _copy_shard(rng: random.Random, run: Path) -> None:
    one, other = rng.sample(_shards(run), 2)
    shutil.rmtree(other)
    shutil.copytree(one, other)


def _remove_shard(rng: random.Random, run: Path) -> None:
    shutil.rmtree(rng.choice(_shards(run)))


def _another_runs_shard(rng: random.Random, run: Path) -> None:
    others = sorted(path for path in run.parent.iterdir() if path != run)
    mine, theirs = rng.choice(_shards(run)), rng.choice(_shards(rng.choice(others)))
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)


def _extra(rng: random.Random, run: Path) -> None:
    folder = rng.choice(_files(run)).parent
    (folder / f"extra{rng.randrange(100)}").write_bytes(rng.randbytes(rng.randrange(20)))


def _rename(rng: random.Random, run: Path) -> None:
    path = rng.choice(_files(run))
    path.rename(path.with_name(f"{path.name}.{rng.randrange(10)}"))


def _directory_for_file(rng: random.Random, run: Path) -> None:
    path = rng.choice(_files(run))
    path.unlink()
    path.mkdir()


def _link(rng: random.Random, run: Path) -> None:
    path = rng.choice(sorted(run.rglob("*")))
    aside = run.parent / f".aside-{path.name}"  # outside the run, ignored among runs
    path.rename(aside)
    path.symlink_to(aside)


def _lie(change: Callable[[random.Random, Run, int, Path], None]) -> Act:
    """An act on the content of one shard, which is then sealed again."""

    def act(rng: random.Random, path: Path) -> None:
        run = Run(path)
        shard = rng.choice(run.shards)
        assert isinstance(shard.path, Path)  # a store on a disk
        change(rng, run, shard.index, shard.path)

    return act


def _tokens(shard: Path) -> pa.Table:
    return read_table(object_path(shard, "tokens.arrow"), TOKENS_SCHEMA)


def _reordered(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """Two different rows of tokens are swapped: each occurs once, in the wrong place."""
    table = _tokens(shard)
    order = list(range(table.num_rows))
    one, other = rng.sample(order, 2)
    order[one], order[other] = order[other], order[one]
    object_path(shard, "tokens.arrow").write_bytes(encode_table(table.take(order)))
    reseal(shard)


def _doubled(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """One token occurs twice and another one not at all."""
    table = _tokens(shard)
    order = list(range(table.num_rows))
    one, other = rng.sample(order, 2)
    order[one] = other
    object_path(shard, "tokens.arrow").write_bytes(encode_table(table.take(order)))
    reseal(shard)


def _other_rows(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """A row more or less, in tokens, in arrays and in the record alike."""
    table = _tokens(shard)
    n = table.num_rows + rng.choice((-1, 1))
    order = [min(k, table.num_rows - 1) for k in range(n)]
    object_path(shard, "tokens.arrow").write_bytes(encode_table(table.take(order)))
    chunks: dict[str, list[dict[str, Any]]] = {}
    for site in run.plan.sites:
        spec = site_array(site, run.plan.stored_dtype, n)
        encoded = encode_array(spec, np.ones((n, site.width), spec.dtype))
        place = object_path(shard, "hidden.zarr") / site.name
        (place / "zarr.json").write_bytes(encoded.metadata)
        (place / "c/0/0").write_bytes(b"".join(encoded.parts))
        chunks[f"hidden.zarr/{site.name}/c/0/0"] = [vars(chunk) for chunk in encoded.chunks]

    def change(record: dict[str, Any]) -> None:
        record["rows"] = n
        for key, of_array in chunks.items():
            record["objects"][key]["chunks"] = of_array

    reseal(shard, change)


def _array_of_other_rows(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """Only one site has other rows or columns."""
    site = rng.choice(run.plan.sites)
    path = object_path(shard, f"hidden.zarr/{site.name}/zarr.json")
    document = json.loads(path.read_bytes())
    document["shape"][rng.randrange(2)] += rng.choice((-1, 1))
    path.write_bytes(json.dumps(document).encode())
    reseal(shard)


def _object_left_out(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """An object that is neither present nor listed."""
    path = rng.choice([p for p in _files(shard) if p.name not in ("COMMIT.json", "zarr.json")])
    path.unlink()
    for parent in path.relative_to(shard).parents:
        if not any((shard / parent).iterdir()):
            (shard / parent).rmdir()
    reseal(shard)


def _record_of_another(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """Another shard's content under this one's index, or this one's under another plan."""
    other = rng.choice([s for s in _shards(shard.parents[1]) if s != shard])
    shutil.rmtree(shard)
    shutil.copytree(other, shard)
    reseal(shard, lambda record: record.update(shard=index))


def _another_plan(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    reseal(shard, lambda record: record.update(plan="0" * 64))


def _another_attempt(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """A record that names an attempt which does not exist."""
    record = json.loads((shard / "COMMIT.json").read_bytes())
    (shard / "COMMIT.json").write_bytes(seal({**record, "base": rng.randbytes(8).hex()}))


def _chunk_changed(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """A record whose checksum of an object is right, while that of one of its chunks is wrong."""
    record = json.loads((shard / "COMMIT.json").read_bytes())
    arrays = [of for of in record["objects"].values() if "chunks" in of]
    if arrays:  # none before format 3
        rng.choice(rng.choice(arrays)["chunks"])["xxh3_128"] = rng.randbytes(16).hex()
        (shard / "COMMIT.json").write_bytes(seal(record))


def _plan_changed(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """A different plan, in a run whose record fits it."""
    folder = shard.parents[1]
    path = object_path(folder, "plan.json")
    document = json.loads(path.read_bytes())
    change = rng.choice(("context", "prefixes", "corpus"))
    document[change] = {"context": 99, "prefixes": [1, 2], "corpus": {}}[change]
    path.write_bytes(canonical_json(document))
    reseal(folder)


def _prompts_changed(rng: random.Random, run: Run, index: int, shard: Path) -> None:
    """Prompts in another order, or fewer, in a run whose record fits them."""
    table = run.prompts()
    order = list(range(table.num_rows))
    order = order[::-1] if rng.random() < 0.5 else order[1:]
    folder = shard.parents[1]
    object_path(folder, "prompts.arrow").write_bytes(encode_table(table.take(order)))
    reseal(folder)


EDITS: Mapping[str, Act] = {
    "flip a bit": _edit(_flip_bit),
    "set a byte": _edit(_set_byte),
    "insert": _edit(_insert),
    "delete": _edit(_delete),
    "truncate": _edit(_truncate),
    "append": _edit(_append),
    "zero a block": _edit(_zero),
    "another space": _edit(_whitespace),
    "remove a file": _remove,
    "swap two files": _swap_files,
    "swap two shards": _swap_shards,
    "copy a shard over another": _copy_shard,
    "remove a shard": _remove_shard,
    "a shard of another run": _another_runs_shard,
    "extra file": _extra,
    "rename a file": _rename,
    "a directory for a file": _directory_for_file,
    "a link": _link,
}
"""Acts on files."""

FileAct: TypeAlias = Callable[[random.Random, Path, Path], None]
"""Damages one file of the store in a directory."""


def kind_of(root: Path, path: Path) -> str:
    """What a file of a store holds: its directory and its name, without ids and numbers."""
    key = path.relative_to(root)
    name = re.sub(r"-[0-9a-f]+(?=\.arrow$)", "", key.name)
    return f"{key.parts[0]}/{'shard/' * ('shards' in key.parts)}{name}"


def _of_bytes(change: Callable[[random.Random, bytearray, int], None]) -> FileAct:
    def act(rng: random.Random, root: Path, path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(rng, data, rng.randrange(max(len(data), 1)))
        path.write_bytes(data)

    return act


def _other_file(rng: random.Random, root: Path, path: Path) -> None:
    path.write_bytes(rng.choice([other for other in _files(root) if other != path]).read_bytes())


def _folder_for_file(rng: random.Random, root: Path, path: Path) -> None:
    path.unlink()
    path.mkdir()


ODD_VALUES: Sequence[Any] = (
    *(None, True, -1, 0, 1 << 62, 1e308, float("nan"), "", "x" * 5000, "\x1b[2J"),
    *([], {}, [[]] * 99, {"a": {}}),
)
"""Values of JSON of another type or size."""


def _odd_value(rng: random.Random, root: Path, path: Path) -> None:
    """Replace a value of a JSON document by one of another type or size; a record is sealed."""
    document = json.loads(path.read_bytes())
    holder, key = document, rng.choice(sorted(document))
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(sorted(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    holder[key] = value = rng.choice(ODD_VALUES)
    record = path.name == "COMMIT.json" and rng.random() < 0.8 and str(value) != "nan"
    path.write_bytes(seal(document) if record else json.dumps(document).encode())
    sealed = [above for above in path.parents if (above / "COMMIT.json").is_file()]
    if not record and sealed and rng.random() < 0.5:
        reseal(sealed[0])


FILE_ACTS: Mapping[str, FileAct] = {
    "flip a bit": _of_bytes(_flip_bit),
    "cut": _of_bytes(_truncate),
    "append": _of_bytes(_append),
    "zero": _of_bytes(_zero),
    "empty": _of_bytes(lambda _, data, __: data.clear()),
    "another file": _other_file,
    "remove": lambda _, __, path: path.unlink(),
    "a folder": _folder_for_file,
}
"""Acts on one file."""

ODD_VALUE: FileAct = _odd_value
"""An act on a JSON document alone."""


LIES: Mapping[str, Act] = {
    "tokens in another order": _lie(_reordered),
    "a token twice": _lie(_doubled),
    "a row more or less": _lie(_other_rows),
    "an array of another shape": _lie(_array_of_other_rows),
    "an object left out": _lie(_object_left_out),
    "another shard's content": _lie(_record_of_another),
    "another plan": _lie(_another_plan),
    "another attempt": _lie(_another_attempt),
    "a chunk's checksum": _lie(_chunk_changed),
    "a plan changed": _lie(_plan_changed),
    "prompts changed": _lie(_prompts_changed),
}
"""Acts of a consistent liar."""
