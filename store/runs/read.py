"""One run of a store: its plan, its prompts, the rows of its committed shards.

Reading is bounded in memory: a block of rows at a time, never a whole shard. Everything comes
through `lpp.store.committed.checked`, so that altered bytes never become numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.layout import site_array
from lpp.store.arrays.reader import ReadAs
from lpp.store.committed.checked import Checked, open_checked
from lpp.store.committed.compare import Problem
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError, NotFoundError
from lpp.store.format.commit_record import CommitRecord
from lpp.store.format.documents import load_json
from lpp.store.format.keys import (
    ADVICE,
    COMMIT_KEY,
    HIDDEN_KEY,
    PLAN_KEY,
    QUARANTINE_KEY,
    TOKENS_KEY,
)
from lpp.store.format.plan import Plan, SiteSpec, parse_plan
from lpp.store.format.prompt_columns import BRANCH_COLUMNS, CONTINUATION_COLUMNS
from lpp.store.format.quarantine import (
    QUARANTINE_SCHEMA,
    TEXTS_SCHEMA,
    QuarantineSummary,
    summarise,
)
from lpp.store.format.rows import branches_of, column_values_problems
from lpp.store.format.run_names import plan_name
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, check_table
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.runs.fingerprint import fingerprint
from lpp.store.runs.prompts import extra_columns, read_prompts
from lpp.store.runs.shards import Shard, check_tokens, open_shard, run_directory
from lpp.store.runs.site_rows import SiteRows
from lpp.store.runs.verify import verify_run
from lpp.store.settings.arguments import check_word
from lpp.store.shared.heads import open_head
from lpp.store.shared.logits import Head
from lpp.store.shared.vocabularies import read_vocabulary

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_BLOCK_BYTES: Final = 16 << 20
"""Size of a block of float32 rows: several chunks for each core. The allocator keeps two such
blocks for the next; two of 24 MiB went back to the system, and new pages took a third of the time.
"""

_LENGTHS: Final = pa.schema([PROMPTS_SCHEMA.field("n_tokens")])


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some rows of one site, in prompt and position order."""

    values: npt.NDArray[Any]
    """(n, d) float32, or as stored."""
    prompt_id: npt.NDArray[np.int32]
    """(n,)"""
    position: npt.NDArray[np.int32]
    """(n,)"""

    def without(self, prompts: npt.NDArray[np.integer[Any]]) -> "Block":
        """The rows that belong to none of `prompts`; the block itself if no row does."""
        rest = np.isin(self.prompt_id, prompts, invert=True)
        if rest.all():
            return self
        return Block(
            values=self.values[rest], prompt_id=self.prompt_id[rest], position=self.position[rest]
        )


class Run:
    """A committed run. Shards may still be missing: `missing_shards` names them."""

    def __init__(self, path: Place, names: Callable[[], Mapping[str, str]] | None = None) -> None:
        """names: returns the names of the runs of the store, by id."""
        self.id = path.name
        self.directory = run_directory(path)
        self._names = names

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: not the other runs of the store."""
        return {**self.__dict__, "_names": None}

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {len(self.shards)} of {self.plan.n_shards} shards)"

    @property
    def path(self) -> Place:
        """Its directory, or its prefix in a bucket."""
        return self.directory.place

    @cached_property
    def _checked(self) -> Checked[CommitRecord]:
        try:
            return open_checked(self.directory, CommitRecord)
        except (FileNotFoundError, NotADirectoryError):
            raise FormatError(
                f"{self.path} is not a committed run: it holds no {COMMIT_KEY}. "
                "Repeat the `lpp-capture run` command that made it: every whole shard stays.",
                kind=ErrorKind.CORRUPT,
            ) from None

    @property
    def commit(self) -> CommitRecord:
        """The run's own record. FormatError: CORRUPT, or UNSUPPORTED_VERSION of a newer release."""
        return self._checked.record

    @cached_property
    def plan(self) -> Plan:
        """The frozen plan. FormatError: CORRUPT if it is not the one this run was made with,
        UNSUPPORTED_VERSION of a run without rows.
        """
        where = str(self._checked.objects.place / PLAN_KEY)
        document = load_json(self._checked.document(PLAN_KEY), where)
        plan = parse_plan(document, where, self.commit.name)
        if plan.hash != self.commit.plan or plan.run_id != self.id:
            raise FormatError(
                f"{where}: altered since it was written (its hash is {plan.hash[:8]}, "
                f"the run is {self.id}).",
                kind=ErrorKind.CORRUPT,
            )
        return plan

    @cached_property
    def name(self) -> str:
        """The name of the run: what the user called it, or its model and what was done to it. Of a
        run that a `Store` opened, distinct among the runs of the store.
        """
        names = {} if self._names is None else self._names()
        return names.get(self.id) or plan_name(self.plan)

    @property
    def sites(self) -> tuple[str, ...]:
        """Captured sites in depth order."""
        return self.plan.site_names

    @property
    def activation_sites(self) -> tuple[str, ...]:
        """Sites that have spectra, in depth order: all but integers and what routers give."""
        plan = self.plan
        return tuple(site.name for site in plan.sites if plan.holds_activations(site))

    def site(self, name: str) -> SiteSpec:
        """The site of that name. NotFoundError if the run does not have it."""
        for spec in self.plan.sites:
            if spec.name == name:
                return spec
        raise NotFoundError(f"run {self.id} has no site {name!r}; it has {', '.join(self.sites)}.")

    # shards

    @cached_property
    def _shard_states(self) -> list[Shard | str | None]:
        return self._look(range(self.plan.n_shards))

    def _look(self, indices: Sequence[int], plan: Plan | None = None) -> list[Shard | str | None]:
        plan = plan or self.plan
        return self.directory.map(lambda k: open_shard(self.directory, plan, k), indices)

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Committed shards in order. A shard without a valid record does not exist."""
        return tuple(shard for shard in self._shard_states if isinstance(shard, Shard))

    @property
    def left_out(self) -> dict[int, str]:
        """Why existing shards are not used, by index: each has no valid record."""
        return {k: state for k, state in enumerate(self._shard_states) if isinstance(state, str)}

    @cached_property
    def missing_shards(self) -> tuple[int, ...]:
        """Indices of shards that cannot be used: not committed yet, or left out."""
        return tuple(
            k for k, state in enumerate(self._shard_states) if not isinstance(state, Shard)
        )

    @property
    def n_prompts(self) -> int:
        """Prompts that can be analysed: those of the shards before the first missing one."""
        return self.plan.shards[min(self.missing_shards, default=self.plan.n_shards)]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the committed shards: changes when a shard is added or rewritten."""
        return fingerprint(shard.digest for shard in self.shards)

    def shard(self, index: int) -> Shard | None:
        """Shard `index` as it is now, or None if it cannot be used."""
        (state,) = self._look([index])
        return state if isinstance(state, Shard) else None

    def uncommitted(self, indices: Sequence[int], plan: Plan | None = None) -> list[int]:
        """The `indices` that nobody has committed by now, in order; checks each again.

        plan: that of the run, which may be damaged here; read from the run by default.
        """
        states = zip(indices, self._look(indices, plan), strict=True)
        return [index for index, shard in states if not isinstance(shard, Shard)]

    # prompts

    def prompts(self, *columns: str) -> pa.Table:
        """Every prompt of the plan, (count, 6): `PROMPTS_SCHEMA`. columns: of `extra_columns`, in
        that order after the six; NotFoundError for one that the run lacks, FormatError for branches
        and continuations that are not the plan's.
        """
        if not columns:
            return read_prompts(self._checked, self.plan)
        extra = self.extra_columns
        if missing := [name for name in columns if name not in extra.names]:
            held = ", ".join(extra.names) or "none beside those of every run"
            raise NotFoundError(
                f"run {self.id}: its prompts have no column {', '.join(map(repr, missing))}; they "
                f"have {held}."
            )
        requested = dict.fromkeys(columns)
        both = [
            name
            for kind in (BRANCH_COLUMNS, CONTINUATION_COLUMNS)
            if requested.keys() & {*kind} and {*kind} <= {*extra.names}
            for name in kind
        ]
        schema = pa.schema([*PROMPTS_SCHEMA, *map(extra.field, dict.fromkeys([*requested, *both]))])
        table = read_prompts(self._checked, self.plan, schema)
        if problems := column_values_problems(table, self.plan):
            raise FormatError(
                f"{self.path}: prompts.arrow: {'; '.join(problems)}. {ADVICE}",
                kind=ErrorKind.CORRUPT,
            )
        return table.select([*PROMPTS_SCHEMA.names, *requested])

    @cached_property
    def extra_columns(self) -> pa.Schema:
        """The columns of its prompts beyond `PROMPTS_SCHEMA`: `id`, `text`, `field.<name>` and
        `token.<name>`, a list with a value for each token.

        FormatError(CORRUPT) for such a column of a type that it may not have.
        """
        return extra_columns(self._checked)

    def require_columns(self, names: Sequence[str]) -> None:
        """ConflictError if its prompts lack one of these columns: a text cannot be added to a run,
        and a field only by `add_fields`.
        """
        held = self.extra_columns.names if names else []
        if missing := [name for name in names if name not in held]:
            raise ConflictError(
                f"run {self.id} is in the store already, and its prompts carry no "
                f"{', '.join(missing)}. To add fields: lpp-capture label STORE {self.id} "
                "--from FILE --fields NAMES. To go on with the run, leave out --fields and "
                "--keep-texts. Or use another --store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(count,) tokens of each prompt."""
        lengths = (
            read_prompts(self._checked, self.plan, _LENGTHS)["n_tokens"].to_numpy().astype(np.int64)
        )
        if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= self.plan.context:
            raise FormatError(
                f"{self.path}: a prompt of {lengths.min()} or {lengths.max()} tokens, should be 1 "
                f"to {self.plan.context}. {ADVICE}",
                kind=ErrorKind.CORRUPT,
            )
        n_tokens: npt.NDArray[np.int64] = lengths
        return n_tokens

    @cached_property
    def row_edges(self) -> npt.NDArray[np.int64]:
        """(count + 1,) the first row of each prompt, counted through all shards, then the number of
        rows.
        """
        return np.append(0, np.cumsum(self.lengths))

    @cached_property
    def analysed_lengths(self) -> npt.NDArray[np.int32]:
        """(n_prompts,) tokens of each prompt that can be analysed; 0 for one that was set aside,
        and for a branch, which is an answer to a prompt and has no beginning of its own.
        """
        lengths = self.lengths[: self.n_prompts].astype(np.int32)
        lengths[self.quarantined[self.quarantined < self.n_prompts]] = 0
        lengths[self.branch_of[: self.n_prompts] >= 0] = 0
        return lengths

    @property
    def branch_of(self) -> npt.NDArray[np.int32]:
        """(count,) the prompt that each prompt branches off; -1 for one that is no branch, as most
        are.
        """
        return self.branches[0]

    @cached_property
    def branches(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """`branch_of` and `branch_at`, (count,) each: the model read the first `branch_at` tokens
        of prompt `branch_of` before the prompt's own, whose rows are stored only there.
        """
        if self.plan.prompts.branches is None:  # as of most: without reading token ids
            count = self.plan.prompts.count
            return np.full(count, -1, np.int32), np.zeros(count, np.int32)
        return branches_of(self.prompts(*BRANCH_COLUMNS))

    @cached_property
    def quarantine(self) -> pa.Table:
        """Prompts that committed shards set aside, (n, 5): `QUARANTINE_SCHEMA`. Empty for most."""
        tables = [shard.quarantine() for shard in self.shards if shard.record.quarantine]
        return pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *tables])

    @cached_property
    def quarantined(self) -> npt.NDArray[np.int32]:
        """(n,) ids of those prompts, ascending. Their rows have no meaning, and `blocks` leaves
        them out.
        """
        if not self._sets_aside:
            return np.zeros(0, np.int32)
        ids: npt.NDArray[np.int32] = self.quarantine["prompt_id"].to_numpy()
        return ids

    @property
    def _sets_aside(self) -> bool:
        """Whether any shard sets a prompt aside: of most runs the records say that none does."""
        return any(shard.record.quarantine for shard in self.shards)

    def texts_set_aside(self) -> pa.Table:
        """Texts of the corpus that became no prompt, (n, 3): `TEXTS_SCHEMA`. Empty for most."""
        if QUARANTINE_KEY not in self.commit.objects:
            return TEXTS_SCHEMA.empty_table()
        return self._checked.table(QUARANTINE_KEY, TEXTS_SCHEMA)

    def set_aside(self) -> QuarantineSummary:
        """Counts of both."""
        committed = sum(shard.end_prompt - shard.first_prompt for shard in self.shards)
        if not self._sets_aside and QUARANTINE_KEY not in self.commit.objects:
            return QuarantineSummary(committed=committed, texts={})
        return summarise(self.quarantine, self.texts_set_aside(), self.sites, committed)

    def vocabulary(self) -> pa.Table | None:
        """The tokens of its tokenizer, (n, 3) `VOCABULARY_SCHEMA` by ascending id: the bytes and
        the text of each. None if the store has no vocabulary for it.
        """
        return read_vocabulary(self.directory.root, self.plan.tokenizer.fingerprint)

    # token statistics

    def tokens_files(self) -> list[Path]:
        """The `tokens.arrow` of each committed shard, in order, checked.

        From a bucket they are fetched to this machine, once per process.
        """

        def file(shard: Shard) -> Path:
            path = shard.file(TOKENS_KEY)
            check_table(path, rows=shard.rows)
            return path

        return self.directory.map(file, self.shards)

    def tokens(self, *columns: str) -> "ds.Dataset":
        """Token statistics of every committed shard, as an Arrow dataset.

        Prompts that were set aside (`quarantined`) are among them, without statistics. columns: of
        `plan.prompts.token_columns`, such as token.loss_mask, in that order after the statistics;
        the dataset is then in memory. NotFoundError for one that the run lacks.
        """
        import pyarrow.dataset as ds  # it imports pandas, where that is installed

        files = [str(path) for path in self.tokens_files()]
        dataset: ds.Dataset = ds.dataset(files, schema=TOKENS_SCHEMA, format="ipc")
        if not columns:
            return dataset
        if unknown := [name for name in columns if name not in self.plan.prompts.token_columns]:
            held = ", ".join(self.plan.prompts.token_columns) or "none"
            raise NotFoundError(
                f"run {self.id}: no values by token in {', '.join(map(repr, unknown))}; it has "
                f"{held}."
            )
        table, prompts = dataset.to_table(), self.prompts(*columns)
        shards = [range(shard.first_prompt, shard.end_prompt) for shard in self.shards]
        committed = pa.array([prompt for shard in shards for prompt in shard], pa.int64())
        for name in dict.fromkeys(columns):
            lists = prompts[name].take(committed).combine_chunks()
            table = table.append_column(name, by_token(lists, self.lengths[committed.to_numpy()]))
        return ds.dataset(table)

    # activations

    def hidden(self, site: str) -> Iterator[npt.NDArray[np.float32]]:
        """The rows of `blocks`, (n, d) float32 at a time."""
        return (block.values for block in self.blocks(site))

    def blocks(
        self,
        site: str,
        *,
        first: int = 0,
        prompts: int | None = None,
        block_bytes: int = _BLOCK_BYTES,
        dtype: ReadAs = "float32",
        branches: bool = False,
    ) -> Iterator[Block]:
        """Rows of `site` with the token each belongs to, about `block_bytes` at a time.

        Prompts that were set aside are left out, and so are branches (`branch_of`) unless
        requested. first, prompts: only those with `first <= prompt_id < prompts`; all committed
        ones by default. dtype: `float32`, or `stored`: as of `Plan.dtype_of`, bfloat16 and
        float8_e4m3 as the bits of bfloat16, uint16. Raises InputError for a site the run does not
        hold and for integers that are not read as stored; FormatError for altered bytes.
        """
        spec = self.require_rows(site, dtype)
        end = self.plan.prompts.count if prompts is None else prompts
        unwanted = np.zeros(0, np.int64) if branches else np.flatnonzero(self.branch_of >= 0)
        for shard in self.shards:
            if first < shard.end_prompt and shard.first_prompt < end:
                aside = np.union1d(shard.quarantined(), unwanted)
                blocks = self._shard_blocks(shard, spec, range(first, end), block_bytes, dtype)
                for block in blocks:
                    rest = block.without(aside) if len(aside) else block
                    if len(rest.values):
                        yield rest

    def array(self, site: str, *, dtype: ReadAs = "float32") -> SiteRows:
        """Every row of `site`, (T, d), as an array that reads when it is indexed: for NumPy, dask
        (`dask.array.from_array`) and xarray.

        Row t is the token in row t of `tokens()`; rows of prompts that were set aside are among
        them. dtype: as in `blocks`. Raises what `blocks` does, and InputError for a run with
        missing shards.
        """
        spec = self.require_rows(site, dtype)
        if self.missing_shards:
            raise InputError(
                f"run {self.id}: shards are missing, so its rows are no array yet. `lpp-capture "
                "status` says which; `blocks` reads the others.",
                kind=ErrorKind.INCOMPLETE,
            )
        return SiteRows(self.plan, spec, self.shards, dtype)

    # logits

    def head(self) -> Head | None:
        """The head, which computes logits from rows of `final`, with its matrix in memory. None if
        the store does not have it, as for runs captured before heads were kept.

        FormatError for altered bytes, with the next command. Reads the whole matrix, V d values.
        """
        return open_head(objects_at(self.directory.root), self.plan)

    def require_rows(self, site: str, dtype: ReadAs) -> SiteSpec:
        """The site of that name. NotFoundError if the run does not have it; InputError for
        integers that are not read as stored, and for another dtype.
        """
        check_word("dtype", dtype, ReadAs)
        spec = self.site(site)
        if dtype != "stored" and self.plan.holds_integers(spec):
            raise InputError(
                f"site {site} of run {self.id} holds integers ({spec.dtype}), which are no "
                'activations. Read them with dtype="stored".'
            )
        return spec

    def _shard_blocks(
        self, shard: Shard, site: SiteSpec, prompts: range, block_bytes: int, dtype: ReadAs
    ) -> Iterator[Block]:
        """Blocks of one shard, cut on chunk boundaries, with every prompt in them."""
        tokens = _RowIndex(shard, self.lengths)
        rows = tokens.rows_of(prompts)
        spec = site_array(site, self.plan.dtype_of(site), shard.rows)
        with shard.array(HIDDEN_KEY, spec, start=rows.start, end=rows.stop) as array:
            chunk = array.layout.chunk_rows
            step = max(chunk, block_bytes // (4 * site.width) // chunk * chunk)
            for begin in range(rows.start // chunk * chunk, rows.stop, step):
                start, end = max(begin, rows.start), min(begin + step, rows.stop)
                yield tokens.block(start, array.rows(start, end, dtype=dtype))

    def verify(self) -> list[Problem]:
        """Every way in which the bytes of this run differ from what was committed."""
        return verify_run(self.path)


def by_token(lists: pa.Array, lengths: npt.NDArray[np.int64]) -> pa.Array:
    """The values of lists end to end, (sum of lengths,); nulls for a list that is null."""
    valid = np.repeat(lists.is_valid().to_numpy(zero_copy_only=False), lengths)
    return lists.flatten().take(pa.array(np.cumsum(valid) - 1, mask=~valid))


class _RowIndex:
    """Which token each row of a shard belongs to: rows are sorted by prompt, then by position."""

    def __init__(self, shard: Shard, lengths: npt.NDArray[np.int64]) -> None:
        self._first = shard.first_prompt
        of_shard = lengths[shard.first_prompt : shard.end_prompt]
        self._edges = np.concatenate([[0], np.cumsum(of_shard)])
        check_tokens(shard, int(self._edges[-1]))

    def rows_of(self, prompts: range) -> range:
        """The rows of `prompts` in this shard."""
        last = len(self._edges) - 1
        first, end = (min(max(p - self._first, 0), last) for p in (prompts.start, prompts.stop))
        return range(int(self._edges[first]), int(self._edges[end]))

    def block(self, start: int, values: npt.NDArray[Any]) -> Block:
        """`values`, the rows from `start` on, with their tokens."""
        end = start + len(values)
        first, last = np.searchsorted(self._edges, [start, max(start, end - 1)], side="right")
        prompts = np.arange(first - 1, last, dtype=np.int32)
        edges = np.clip(self._edges[first - 1 : last + 1], start, end)
        prompt = np.repeat(prompts, np.diff(edges))
        position = np.arange(start, end) - self._edges[prompt]
        return Block(
            values=values,
            prompt_id=prompt + np.int32(self._first),
            position=position.astype(np.int32),
        )
