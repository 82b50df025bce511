"""Rows of prompts that another program collects, in any order: the run of `lpp.store.sink`.

A shard is committed once each of its prompts was given or set aside. Until then its rows lie in
memory, or in temporary files if more shards are open than memory may hold; a process that is killed
loses these rows alone, and the same call resumes.
"""

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.finite import rows_not_finite
from lpp.store.arrays.layout import ArraySpec, site_array
from lpp.store.errors import ErrorKind, InputError, MachineError, NotFoundError
from lpp.store.format.keys import RUNS_KEY, SHARDS_KEY
from lpp.store.format.plan import ModelInfo, StoredDtype
from lpp.store.format.quarantine import FAILED, NOT_FINITE, SetAside, quarantine_table, texts_table
from lpp.store.format.rows import positions
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA
from lpp.store.objects.place import Url
from lpp.store.root import make_store
from lpp.store.runs.given import (
    GivenPrompt,
    GivenSite,
    given_dtype,
    given_model,
    given_plan,
    given_prompts,
    given_rows,
    given_sites,
    given_tokenizer,
)
from lpp.store.runs.heartbeat import at_work
from lpp.store.runs.repair import find_damage
from lpp.store.runs.write import RunWriter
from lpp.store.settings.arguments import check_flag, check_whole, check_word, refused

_TILE_BYTES: Final = 1 << 18
"""Bytes of rows that are copied and checked at a time: they stay in the cache in between."""


def sink(
    store: Url,
    *,
    model: str | Mapping[str, Any] | ModelInfo,
    sites: Mapping[str, GivenSite],
    prompts: Iterable[GivenPrompt],
    tokenizer: Any = None,
    dtype: StoredDtype = "float32",
    collector: str = "given",
    versions: Mapping[str, str] | None = None,
    corpus: str = "given",
    statistics: bool = False,
    shard_bytes: int = 256 << 20,
    memory_bytes: int = 4 << 30,
    repair: bool = False,
) -> "RowSink":
    """A run in `store`, made if there is none, for rows that another program collects:

        with sink("./lpp", model="gpt2", sites={"blocks.3.hook_z": 768}, prompts=ids) as rows:
            for prompt in rows.missing():
                rows.put(prompt, {"blocks.3.hook_z": collect(prompt.token_ids)})

    The same call resumes the run, also from several processes at once; another model, prompts,
    sites, dtype, collector, versions, corpus or shard size is another run.

    model: its name, or what is known of it: `id`, and any of `revision`, `weights` (a fingerprint),
    `architecture`, `n_parameters`, `n_blocks`, `hidden_size`, `logits_width`, `untrained_seed`.
    sites: columns of each site by its name, in order of depth; or (columns, dtype); or, for rows
    that are known to be those of `embed`, a block or `final`, a `SiteSpec`. Integer dtypes (uint8,
    uint16, int32) are for counts and choices, such as the experts of a token. prompts: the token
    ids of each; or mappings with `input_ids`, and `id`, `text` or other fields, which the prompts
    of the run then carry; a list with a value for each token, such as `loss_mask`, is a column by
    token. Prompts that are empty or have ids beyond the vocabulary are set aside with a warning.
    tokenizer: its name, or as transformers has it, whose length bounds the ids. dtype: of the rows
    of sites that name none; rows are stored bit for bit, and rounded only at a site of
    (columns, "float8_e4m3"). collector, versions: the
    program that collects, and releases of packages that could change a number. corpus: a name for
    the prompts. statistics: whether `put` is also given statistics of the logits. shard_bytes: of
    the rows of a shard, at least one prompt. memory_bytes: of open shards in memory; others lie in
    temporary files (`TMPDIR`). repair: verify the run, and take prompts of damaged shards again.

    Raises InputError for what does not fit together; ConflictError for prompts that the run has
    with other fields; MachineError as `RunWriter` does.
    """
    if str(dtype) == "float8_e4m3":  # no StoredDtype, and yet a name that users know
        raise refused(
            "dtype",
            dtype,
            "that of the rows that you give, such as 'bfloat16'",
            " Rows are rounded to 8 bits at sites={NAME: (columns, 'float8_e4m3')}.",
        )
    check_word("dtype", dtype, StoredDtype)
    check_whole("shard_bytes", shard_bytes, least=1, most=2**63 - 1)
    check_whole("memory_bytes", memory_bytes, most=2**63 - 1)
    check_flag("repair", repair)
    info, tokens = given_model(model), given_tokenizer(tokenizer)
    specs = given_sites(sites, dtype)
    table, aside = given_prompts(prompts, info.logits_width or tokens.size)
    plan = given_plan(
        table,
        specs,
        model=info,
        tokenizer=tokens,
        corpus=corpus,
        collector=collector,
        versions=versions or {},
        dtype=dtype,
        logit_positions="all" if statistics else "none",
        shard_bytes=shard_bytes,
    )
    if aside:
        warnings.warn(
            f"{len(aside)} of {len(aside) + table.num_rows} prompts are set aside, such as "
            f"prompts[{aside[0].source_row}]: {aside[0].detail}.",
            stacklevel=2,
        )
    root = make_store(store).place
    damaged = find_damage(root / RUNS_KEY / plan.run_id, plan).shards if repair else ()
    writer = RunWriter(root, plan, table, replacing=damaged, set_aside=texts_table(aside))
    return RowSink(writer, table, memory_bytes)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt whose rows are not stored yet."""

    number: int
    """Its place in the prompts that were given, from 0."""
    token_ids: list[int]


class RowSink:
    """Takes the rows of each prompt, and commits shards. Made by `sink`; for one thread at a time.

    prompts: the table of the run. memory_bytes: of open shards that may lie in memory.
    """

    def __init__(self, writer: RunWriter, prompts: pa.Table, memory_bytes: int) -> None:
        plan = writer.run.plan
        self.run = writer.run
        """The run, for reading what is committed."""
        self._writer, self._plan, self._prompts = writer, plan, prompts
        self._id_of = {row: k for k, row in enumerate(prompts["source_row"].to_pylist())}
        self._numbers = list(self._id_of)
        ends = np.append(0, np.cumsum(prompts["n_tokens"].to_numpy().astype(np.int64)))
        self._edges: list[int] = ends.tolist()
        self._shard_of = np.repeat(np.arange(plan.n_shards), np.diff(plan.shards)).tolist()
        waiting = writer.uncommitted(range(plan.n_shards))
        self._committed = {*range(plan.n_shards)} - {*waiting}
        self._open: dict[int, _OpenShard] = {}
        self._memory_bytes = memory_bytes
        self._heartbeat = ExitStack()

    def __enter__(self) -> Self:
        doing = f"rows of {self._plan.compute.backend}"
        self._heartbeat.enter_context(at_work(self.run.path / SHARDS_KEY, doing))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._heartbeat:
            if kind is None:
                self.close()

    def missing(self, part: tuple[int, int] = (0, 1)) -> Iterator[Prompt]:
        """The prompts of uncommitted shards that were not given yet, shard by shard.

        part: (k, n) of n processes, k from 0: every n-th shard, so that each process commits its
        own. Shards that other processes commit meanwhile are left out once their turn comes.
        """
        index, count = part
        if not 0 <= index < count:
            raise InputError(f"part {part}: give (k, n) with k from 0 to n - 1.")
        for shard in range(index, self._plan.n_shards, count):
            if self._is_committed(shard):
                continue
            for prompt in range(*self._plan.shards[shard : shard + 2]):
                held = self._open.get(shard)
                if shard not in self._committed and (held is None or prompt in held.left):
                    ids = self._prompts["token_ids"][prompt].as_py()
                    yield Prompt(self._numbers[prompt], ids)

    def put(
        self,
        prompt: Prompt | int,
        rows: Mapping[str, Any],
        statistics: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Take the rows of one prompt at every site: (n_tokens, width) arrays or tensors, or of
        more dimensions that make up `width`. They are copied. Commits the shard if this prompt was
        its last.

        prompt: of `missing`, or its place in the prompts given. statistics: (n_tokens,) of
        each known one of `STATISTICS`, NaN where unknown. A prompt with NaN or infinities in rows
        is set aside as a capture does. Raises InputError for rows that do not fit and a prompt that
        was given before, and takes nothing of it then; MachineError if the shard cannot be written:
        its rows stay until `close`.
        """
        number, prompt_id = self._expected(prompt)
        first, end = self._edges[prompt_id : prompt_id + 2]
        arrays = self._fitting(number, end - first, rows, statistics)
        shard = self._opened(prompt_id)
        start = first - shard.first_row
        broken = None
        for site in self._plan.sites:
            target = shard.hidden[site.name][start : start + end - first]
            checked = broken is None and not self._plan.holds_integers(site)
            bad = _copy(arrays[site.name], target, check=checked)
            if len(bad):
                detail = f"{len(bad)} of {end - first} tokens"
                broken = SetAside(
                    prompt_id=prompt_id,
                    reason=NOT_FINITE,
                    site=site.name,
                    position=int(bad[0]),
                    detail=detail,
                )
        for name, values in statistics.items() if broken is None else ():
            column = shard.statistics.setdefault(name, np.full(shard.n_tokens, np.nan))
            column[start : start + end - first] = values
        self._settle(shard, prompt_id, broken)

    def set_aside(self, prompt: Prompt | int, why: str) -> None:
        """Record that a prompt has no rows, in words; every analysis leaves it out. The rest of its
        shard is stored. Raises what `put` raises.
        """
        _, prompt_id = self._expected(prompt)
        shard = self._opened(prompt_id)
        start, end = (row - shard.first_row for row in self._edges[prompt_id : prompt_id + 2])
        for rows in shard.hidden.values():
            rows[start:end] = 0
        aside = SetAside(
            prompt_id=prompt_id, reason=FAILED, site=None, position=None, detail=str(why)
        )
        self._settle(shard, prompt_id, aside)

    def close(self) -> None:
        """Commit what an error left uncommitted. InputError if prompts were given whose shard lacks
        others: their rows are not stored.
        """
        for shard in list(self._open.values()):
            if not self._is_committed(shard.index) and not shard.left:
                self._commit(shard)
        if not self._open:
            return
        left = [self._numbers[k] for shard in self._open.values() for k in sorted(shard.left)]
        given = sum(len(shard.prompts) - len(shard.left) for shard in self._open.values())
        listed = ", ".join(map(str, left[:5])) + ", ..." * (len(left) > 5)
        self._open.clear()
        raise InputError(
            f"run {self.run.id}: the rows of {given} prompts are not stored, because a shard is "
            f"stored whole, and {len(left)} other prompts of theirs were not given: {listed}. "
            "Repeat the call: missing() lists all of them; set_aside those that have no rows.",
            kind=ErrorKind.INCOMPLETE,
        )

    def _is_committed(self, index: int) -> bool:
        """Whether a shard is committed by now, by any process; then it is not open any more."""
        if index not in self._committed and not self._writer.uncommitted([index]):
            self._committed.add(index)
            self._open.pop(index, None)
        return index in self._committed

    def _expected(self, prompt: Prompt | int) -> tuple[int, int]:
        """The number of a prompt and its id, if its rows may come."""
        number = prompt.number if isinstance(prompt, Prompt) else int(prompt)
        prompt_id = self._id_of.get(number)
        if prompt_id is None:
            raise NotFoundError(
                f"prompts[{number}]: run {self.run.id} has none; it has {len(self._numbers)} of "
                f"{self._numbers[0]} to {self._numbers[-1]}, less those that were set aside."
            )
        index = self._shard_of[prompt_id]
        held = self._open.get(index)
        if index in self._committed or (held is not None and prompt_id not in held.left):
            raise InputError(
                f"prompts[{number}] was given before, and what a run holds stays. Give those that "
                "missing() lists."
            )
        return number, prompt_id

    def _fitting(
        self, number: int, n_tokens: int, rows: Mapping[str, Any], statistics: Mapping[str, Any]
    ) -> dict[str, npt.NDArray[Any]]:
        """The rows of each site, checked; `statistics` are only checked."""
        problems = [f"{name!r} is no site of it" for name in rows if name not in self.run.sites]
        known = STATISTICS if self._plan.logit_positions == "all" else ()
        for name, values in statistics.items():
            if name not in known:
                problems.append(f"{name!r} is no statistic of it")
            elif np.shape(values) != (n_tokens,) or np.isinf(values).any():
                problems.append(f"{name}: should be ({n_tokens},), finite or NaN")
        arrays = {}
        for site in self._plan.sites:
            if site.name not in rows:
                problems.append(f"{site.name}: no rows")
                continue
            try:
                dtype, shape = given_dtype(self._plan, site), (n_tokens, site.width)
                arrays[site.name] = given_rows(rows[site.name], dtype, shape)
            except (ValueError, TypeError) as error:
                problems.append(f"{site.name}: {error}")
        if problems:
            raise InputError(
                f"prompts[{number}]: {'; '.join(problems)}. Nothing of this prompt was taken: give "
                "it again, or set_aside it."
            )
        return arrays

    def _opened(self, prompt_id: int) -> "_OpenShard":
        index = self._shard_of[prompt_id]
        if index not in self._open:
            plan, prompts = self._plan, range(*self._plan.shards[index : index + 2])
            first_row, end = self._edges[prompts.start], self._edges[prompts.stop]
            specs = [site_array(s, given_dtype(plan, s), end - first_row) for s in plan.sites]
            used = sum(shard.bytes for shard in self._open.values())
            needed = sum(spec.rows * spec.row_bytes for spec in specs)
            fits = not used or used + needed <= self._memory_bytes
            self._open[index] = _OpenShard(
                index=index,
                prompts=prompts,
                first_row=first_row,
                hidden={spec.name: _empty_rows(spec, in_memory=fits) for spec in specs},
                left={*prompts},
                n_tokens=end - first_row,
            )
        return self._open[index]

    def _settle(self, shard: "_OpenShard", prompt_id: int, aside: SetAside | None) -> None:
        shard.left.discard(prompt_id)
        if aside is not None:
            shard.aside.append(aside)
        if not shard.left:
            self._commit(shard)

    def _commit(self, shard: "_OpenShard") -> None:
        prompts = self._prompts.slice(shard.prompts.start, len(shard.prompts))
        tokens = _token_table(prompts, shard.statistics)
        quarantine = quarantine_table(shard.aside)
        self._writer.write_shard(shard.index, shard.hidden, tokens, quarantine)
        del self._open[shard.index]
        self._committed.add(shard.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenShard:
    """A shard that lacks prompts."""

    index: int
    prompts: range
    first_row: int
    hidden: Mapping[str, npt.NDArray[Any]]
    """Site -> (T, d) rows, as they are given."""
    left: set[int]
    """Ids of the prompts that it lacks."""
    n_tokens: int
    aside: list[SetAside] = field(default_factory=list)
    statistics: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """(T,) of each that was given, NaN where none was."""

    @property
    def bytes(self) -> int:
        """Bytes of its rows."""
        return sum(rows.nbytes for rows in self.hidden.values())


def _empty_rows(spec: ArraySpec, *, in_memory: bool) -> npt.NDArray[Any]:
    """The (rows, width) of an array, in memory or in a temporary file. MachineError(NO_SPACE)."""
    shape = spec.rows, spec.width
    if in_memory:
        return np.empty(shape, spec.dtype)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, spec.rows * spec.row_bytes)  # or SIGBUS later
            return np.memmap(file, spec.dtype, "r+", shape=shape)
    except OSError as error:
        raise MachineError(
            f"no room for the rows of open shards in {tempfile.gettempdir()} ({error}). Give "
            "prompts in the order of missing(), raise memory_bytes, or set TMPDIR.",
            kind=ErrorKind.NO_SPACE,
        ) from None


def _copy(
    rows: npt.NDArray[Any], target: npt.NDArray[Any], *, check: bool
) -> npt.NDArray[np.int64]:
    """Copy rows; returns those that are not finite, if they are checked."""
    step = max(1, _TILE_BYTES // target[:1].nbytes)
    bad = []
    for start in range(0, len(rows), step):
        tile = target[start : start + step]
        np.copyto(tile, rows[start : start + step], casting="unsafe")  # integers were checked
        if check:
            bad.append(rows_not_finite(tile) + start)
    return np.concatenate([np.zeros(0, np.int64), *bad])


def _token_table(prompts: pa.Table, statistics: Mapping[str, npt.NDArray[Any]]) -> pa.Table:
    """(T, 11), `TOKENS_SCHEMA`, of consecutive prompts; statistics are null where NaN or absent."""
    lengths = prompts["n_tokens"].to_numpy()
    ids = prompts["token_ids"].combine_chunks().flatten()
    columns = {
        "prompt_id": pa.array(np.repeat(prompts["prompt_id"].to_numpy(), lengths)),
        "position": pa.array(positions(lengths).astype(np.int32)),
        "token_id": ids,
    }
    for name in STATISTICS:
        kind, values = TOKENS_SCHEMA.field(name).type, statistics.get(name)
        given = None if values is None else pa.array(values, from_pandas=True).cast(kind)
        columns[name] = pa.nulls(len(ids), kind) if given is None else given
    return pa.table(columns, schema=TOKENS_SCHEMA)
