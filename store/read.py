"""One run as it lies on disk: its plan, its prompts, its committed shards.

Reading is bounded in memory: a block of rows at a time, never a whole shard. Each object is
checked against its checksum before its first use (xxh3 runs at memory speed, decompression
does not), so that altered bytes never become numbers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from lpp.store.arrays.hidden import read_site
from lpp.store.arrays.layout import Group, check_site
from lpp.store.arrays.moments import band_counts
from lpp.store.arrays.moments_reader import MomentsReader, site_of
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.documents import load_json
from lpp.store.format.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    QUARANTINE_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.format.plan import Plan, parse_plan
from lpp.store.format.quarantine import (
    QUARANTINE_SCHEMA,
    TEXTS_SCHEMA,
    QuarantineSummary,
    summarise,
)
from lpp.store.format.record import CommitRecord, read_commit
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, check_table, read_table
from lpp.store.objects.checked import checked_bytes, checked_file
from lpp.store.objects.paths import MAX_DOCUMENT_BYTES, plain_directory, plain_file, read_bounded
from lpp.store.objects.place import Place, in_parallel
from lpp.store.verify import Problem, verify_run

SAID_BYTES: Final = 64 << 20
"""Of all that a shard's quarantine says in words."""

BLOCK_BYTES: Final = 64 << 20
"""Size of a block of float32 rows: long enough for fast matrix products, small beside memory."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of one site, in prompt and position order."""

    values: npt.NDArray[np.float32]
    """(n, d)"""
    prompt_id: npt.NDArray[np.int32]
    """(n,)"""
    position: npt.NDArray[np.int32]
    """(n,)"""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A committed shard."""

    index: int
    rows: int
    first_prompt: int
    end_prompt: int
    digest: str
    """Checksum of its COMMIT record, which covers every object of the shard."""
    path: Place
    commit: CommitRecord

    @property
    def home(self) -> Place:
        """Where its objects lie: `path`, or the attempt in it that counts."""
        return self.commit.home(self.path)


def _without(block: Block, prompts: pa.ChunkedArray) -> Block:
    """The rows of `block` that belong to none of `prompts`."""
    kept = ~np.isin(block.prompt_id, prompts.to_numpy())
    return Block(
        values=block.values[kept], prompt_id=block.prompt_id[kept], position=block.position[kept]
    )


def read_shard(plan: Plan, index: int, path: Place) -> ShardRecord | None:
    """Shard `index` of `plan` if it is what lies at `path`, committed; else None."""
    try:
        commit = read_commit(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise  # not damaged: of a newer release, and not to be written over
        return None
    if commit.plan != plan.hash or commit.shard != index:
        return None
    return ShardRecord(
        index=index,
        rows=commit.rows,
        first_prompt=plan.shards[index],
        end_prompt=plan.shards[index + 1],
        digest=commit.self_xxh3_128,
        path=path,
        commit=commit,
    )


class Run:
    """A committed run. Shards may still be missing: `missing_shards` names them."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self.id = path.name
        self._checked: set[Place] = set()
        self._band_counts: dict[str, npt.NDArray[np.int64]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: what was checked on this machine is checked anew there."""
        return {**self.__dict__, "_checked": set()}

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {len(self.shards)} of {self.plan.n_shards} shards)"

    @cached_property
    def commit(self) -> CommitRecord:
        """The run's own record. FormatError: CORRUPT, or UNSUPPORTED_VERSION of a newer release."""
        try:
            return read_commit(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise FormatError(
                f"{self.path} is not a committed run: it holds no {COMMIT_KEY}. "
                "Remove it and capture again.",
                kind=ErrorKind.CORRUPT,
            ) from None

    @cached_property
    def plan(self) -> Plan:
        """The frozen plan. FormatError(CORRUPT) when it is not the one this run was made with."""
        commit = self.commit  # first: it knows whether a newer release wrote the plan
        home = commit.home(self.path)
        path = home / PLAN_KEY
        self._refuse_links()
        try:
            data = read_bounded(home, PLAN_KEY, MAX_DOCUMENT_BYTES)
            plan = parse_plan(load_json(data, str(path)), str(path))
        except FileNotFoundError:
            raise FormatError(f"{path} is missing.", kind=ErrorKind.CORRUPT) from None
        if plan.hash != commit.plan or plan.run_id != self.id:
            raise FormatError(
                f"{path}: altered since it was written (its hash is {plan.hash[:8]}, "
                f"the run is {self.id}).",
                kind=ErrorKind.CORRUPT,
            )
        return plan

    def _refuse_links(self) -> None:
        """The directories that no record speaks of; the others are looked at on the way."""
        if isinstance(self.path, Path):
            plain_directory(self.path.parent)
            with contextlib.suppress(FileNotFoundError):  # before its first shard
                plain_directory(self.path / SHARDS_KEY)

    @property
    def sites(self) -> tuple[str, ...]:
        """Captured sites in depth order."""
        return self.plan.site_names

    @cached_property
    def shards(self) -> tuple[ShardRecord, ...]:
        """Committed shards in order. A shard without a valid COMMIT does not exist."""
        found = in_parallel(self.path, self.shard, range(self.plan.n_shards))
        return tuple(shard for shard in found if shard is not None)

    def shard(self, index: int) -> ShardRecord | None:
        """Shard `index` as it lies on disk now, or None when it is not committed."""
        return read_shard(self.plan, index, self.path / SHARDS_KEY / shard_key(index))

    def uncommitted(self, indices: Sequence[int]) -> list[int]:
        """Those of `indices` that no one has committed by now, in order; looks at each anew."""
        found = in_parallel(self.path, self.shard, indices)
        return [index for index, shard in zip(indices, found, strict=True) if shard is None]

    @property
    def missing_shards(self) -> tuple[int, ...]:
        """Indices of shards that no one has committed yet."""
        present = {shard.index for shard in self.shards}
        return tuple(k for k in range(self.plan.n_shards) if k not in present)

    @property
    def n_prompts(self) -> int:
        """Prompts that can be analysed: those of the shards before the first missing one."""
        first_missing = min(self.missing_shards, default=self.plan.n_shards)
        return self.plan.shards[first_missing]

    def prompts(self) -> pa.Table:
        """Every prompt of the plan, (count, 6): `lpp.store.format.tables.PROMPTS_SCHEMA`."""
        file, counted = self._file(self.path, self.commit, PROMPTS_KEY), self.plan.prompts
        return read_table(file, PROMPTS_SCHEMA, rows=counted.count, extra=8 * counted.tokens)

    @cached_property
    def quarantine(self) -> pa.Table:
        """Prompts that committed shards set aside, (n, 5): `QUARANTINE_SCHEMA`. Empty for most."""
        tables = [self._quarantine(shard) for shard in self.shards if shard.commit.quarantine]
        return pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *tables])

    def _quarantine(self, shard: ShardRecord) -> pa.Table:
        file = self._file(shard.path, shard.commit, QUARANTINE_KEY)
        return read_table(file, QUARANTINE_SCHEMA, rows=shard.commit.quarantine, extra=SAID_BYTES)

    @cached_property
    def quarantined(self) -> npt.NDArray[np.int32]:
        """(n,) ids of those prompts, ascending. Their rows mean nothing, and `blocks` has none."""
        ids: npt.NDArray[np.int32] = self.quarantine["prompt_id"].to_numpy()
        return ids

    def texts_set_aside(self) -> pa.Table:
        """Texts of the corpus that became no prompt, (n, 3): `TEXTS_SCHEMA`. Empty for most."""
        if QUARANTINE_KEY not in self.commit.objects:
            return TEXTS_SCHEMA.empty_table()
        return read_table(self._file(self.path, self.commit, QUARANTINE_KEY), TEXTS_SCHEMA)

    def set_aside(self) -> QuarantineSummary:
        """Counts of both."""
        committed = sum(shard.end_prompt - shard.first_prompt for shard in self.shards)
        return summarise(self.quarantine, self.texts_set_aside(), self.sites, committed)

    def tokens_files(self) -> list[Path]:
        """The `tokens.arrow` of each committed shard, in order, checked.

        Of a bucket they are fetched to this machine, once in a process.
        """

        def file(shard: ShardRecord) -> Path:
            found = self._file(shard.path, shard.commit, TOKENS_KEY)
            check_table(found, rows=shard.rows)
            return found

        return in_parallel(self.path, file, self.shards)

    def tokens(self) -> ds.FileSystemDataset:
        """Token statistics of every committed shard, as an Arrow dataset.

        Prompts that were set aside (`quarantined`) are among them, without statistics.
        """
        files = [str(path) for path in self.tokens_files()]
        return ds.dataset(files, schema=TOKENS_SCHEMA, format="ipc")

    def hidden(self, site: str) -> Iterator[npt.NDArray[np.float32]]:
        """Every committed row of `site`, (n, d) float32 blocks."""
        return (block.values for block in self.blocks(site))

    def blocks(
        self,
        site: str,
        *,
        first: int = 0,
        prompts: int | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> Iterator[Block]:
        """Rows of `site` with the token each belongs to, about `block_bytes` at a time.

        Prompts that were set aside have none. first, prompts: only those with
        `first <= prompt_id < prompts`; all committed ones by default. Raises InputError for a site
        the run does not hold and for a run that keeps no rows, FormatError for altered bytes.
        """
        site_of(self, site)
        if not self.plan.keeps_rows:
            raise InputError(
                f"run {self.id} keeps moments of its rows and not the rows, which this needs. "
                "Capture again with --keep rows or --keep both.",
                kind=ErrorKind.NOT_FOUND,
            )
        for shard in self.shards:
            if first < shard.end_prompt and (prompts is None or shard.first_prompt < prompts):
                yield from self._shard_blocks(shard, site, first, prompts, block_bytes)

    def moments(self, site: str) -> MomentsReader:
        """Moments of `site` by shard and prefix band; raises what `MomentsReader` does."""
        return MomentsReader(self, site)

    def band_counts(self, shard: ShardRecord) -> npt.NDArray[np.int64]:
        """(B,) rows of a shard in each prefix band, without prompts set aside.

        Read from its tokens once, however many sites ask.
        """
        if shard.digest not in self._band_counts:
            file = self._file(shard.path, shard.commit, TOKENS_KEY)
            tokens = read_table(file, TOKENS_SCHEMA, rows=shard.rows)
            counts = band_counts(tokens, self.quarantined, self.plan.prefixes)
            self._band_counts[shard.digest] = counts
        return self._band_counts[shard.digest]

    def shard_file(self, shard: ShardRecord, key: str) -> Path:
        """An object of a shard as a file of this machine; FormatError where it was altered."""
        return self._file(shard.path, shard.commit, key)

    def _shard_blocks(
        self, shard: ShardRecord, site: str, first: int, prompts: int | None, block_bytes: int
    ) -> Iterator[Block]:
        file = self._file(shard.path, shard.commit, TOKENS_KEY)
        group = self._group(shard, site)
        spec = site_of(self, site)
        where = f"{shard.home}/{HIDDEN_KEY}"
        check_site(group, where, spec, self.plan.stored_dtype, shard.rows)
        tokens = read_table(file, TOKENS_SCHEMA, rows=shard.rows)
        prompt_id = tokens["prompt_id"].to_numpy()
        position = tokens["position"].to_numpy()
        # Rows lie in prompt order, so the first prompts are the first rows.
        rows = shard.rows if prompts is None else int(np.searchsorted(prompt_id, prompts))
        aside = self._quarantine(shard)["prompt_id"] if shard.commit.quarantine else None
        start = int(np.searchsorted(prompt_id, first))
        block_rows = block_bytes // (4 * spec.width)
        for values in read_site(group, site, start=start, rows=rows, block_rows=block_rows):
            end = start + len(values)
            block = Block(
                values=values, prompt_id=prompt_id[start:end], position=position[start:end]
            )
            start = end
            if aside is not None:
                block = _without(block, aside)
            if len(block.values):
                yield block

    def _group(self, shard: ShardRecord, site: str) -> Group:
        """`hidden.zarr` of a shard, as far as `site` goes, checked: of a bucket its objects in
        memory, each fetched once for each call.
        """
        prefix = f"{HIDDEN_KEY}/"
        keys = [key for key in shard.commit.objects if key.startswith(f"{prefix}{site}/")]
        if isinstance(shard.home, Path):
            for key in keys:
                self._file(shard.path, shard.commit, key)
            return shard.home / HIDDEN_KEY
        group = {}
        for key in keys:
            with self._named(shard.path, shard.commit, key):
                data = checked_bytes(shard.home / key, shard.commit.objects[key])
            group[key.removeprefix(prefix)] = data
        return group

    def _file(self, directory: Place, commit: CommitRecord, key: str) -> Path:
        """One object as a file of this machine, compared with its record, once for each `Run`."""
        path = commit.home(directory) / key
        if isinstance(path, Path) and path in self._checked:
            return path
        with self._named(directory, commit, key):
            recorded = commit.objects[key]
            file = checked_file(plain_file(commit.home(directory), key), recorded)
        self._checked.add(path)
        return file

    @contextlib.contextmanager
    def _named(self, directory: Place, commit: CommitRecord, key: str) -> Iterator[None]:
        """Say of an object that is not what its record says where it is and what to do."""
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            found = "altered or cut short" if isinstance(error, ValueError) else "missing"
            raise FormatError(
                f"{commit.home(directory) / key}: {found} since it was "
                f"committed. `lpp-analyze verify {self.path.parent.parent}` lists every such "
                f"object, and `lpp-capture repair {self.path.parent.parent}` computes again the "
                "shards they belong to.",
                kind=ErrorKind.CORRUPT,
            ) from None

    def verify(self) -> list[Problem]:
        """Every way in which the bytes of this run differ from what was committed."""
        return verify_run(self.path)
