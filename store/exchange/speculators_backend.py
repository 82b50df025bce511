"""speculators reads a store in place: importing this module registers its backend `lpp`.

speculators looks for no plug-ins, so the import has to come before that of its trainer, as in
`python -m lpp.store.exchange.train_speculators`. A row of the data set is given the states of the
prompt with the same token ids: any data set of the captured prompts will do, in any order. Each
read is checked, as every read of a store.
"""

import argparse
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.exchange.export import exported
from lpp.store.exchange.projects import Convention, project
from lpp.store.feed.checks import check_feed
from lpp.store.feed.chosen import kept_prompts
from lpp.store.feed.output import Recycled, given
from lpp.store.feed.reader import RunSource
from lpp.store.feed.spans import Spans
from lpp.store.format.rows import token_ids_sha256
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_word
from lpp.store.store import open_store

try:
    from hs_connectors import HiddenStatesBackend, HiddenStatesTransfer
except ImportError:
    raise MachineError(
        "speculators is not installed here: pip install speculators.", kind=ErrorKind.NO_PACKAGE
    ) from None

CONVENTION: Convention = project("speculators")


Order: TypeAlias = Literal["groups", "uniform"]
"""`groups`: samples that lie together are read together (`sample_order`). `uniform`: speculators'
own order, in which each sample unpacks its chunks for itself.
"""

GROUP_CHUNKS: Final = 8
"""Chunks of each site that are unpacked together, and one more where the last prompt ends there."""

BUFFER_BYTES: Final = 256 << 20
"""Bytes of the groups that a worker keeps, unless one group has more."""


class StoreTransfer(HiddenStatesTransfer):  # type: ignore[misc]  # of speculators
    """States of the rows of a data set, from a run.

    data_path: a data set of `save_to_disk`. sites: of each layer, then of the last state. Raises
    InputError for a run that lacks one, for missing shards, and if no row is a prompt of the run.
    """

    def __init__(
        self, run: Run, sites: Sequence[str], data_path: str, order: Order = "uniform"
    ) -> None:
        check_word("order", order, Order)
        selection = exported(run, CONVENTION, sites)
        self._sites = selection.sites
        check_feed([run], self._sites, "float32")
        self._place = run.directory.root, run.id
        self._data_path, self._edges = data_path, run.row_edges
        self._prompts = self._matched(run)
        self.by_groups = order == "groups"
        """Whether samples are read together with others, and should come so."""
        self.at_once = 1
        """Groups that are kept in memory."""
        self._group_of = np.arange(len(run.lengths))
        if self.by_groups:
            chunks = Spans.of_rows([run], self._sites, None).edges
            self._group_of = np.searchsorted(chunks, self._edges[:-1], "right") // GROUP_CHUNKS
        self._longest = int(np.bincount(self._group_of, run.lengths).max())
        if self.by_groups:
            self.at_once = max(1, BUFFER_BYTES // (self._longest * selection.row_bytes))

    def __getstate__(self) -> dict[str, Any]:
        """Without what each worker opens for itself."""
        own = ("_source", "_data", "_kept", "_memory")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    @cached_property
    def _source(self) -> RunSource:
        root, run = self._place
        return RunSource(open_store(root).runs[run], self._sites)

    @cached_property
    def _data(self) -> Any:
        from datasets import load_from_disk

        data = load_from_disk(self._data_path).select_columns(["input_ids"])
        return data.with_format("arrow")

    @cached_property
    def _kept(self) -> OrderedDict[int, tuple[int, npt.NDArray[Any], set[int]]]:
        """`_states` of each group in memory, the one that was used last at the end."""
        return OrderedDict()

    @cached_property
    def _memory(self) -> Recycled:
        """Memory of the states of a group, used again once no sample refers to it."""
        return Recycled()

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """(rows,) the group of each row of the data set; one of its own if it is no prompt."""
        own = -1 - np.arange(len(self._prompts))
        return np.where(self._prompts < 0, own, self._group_of[self._prompts])

    def _matched(self, run: Run) -> npt.NDArray[np.int64]:
        """(rows,) the prompt with the ids of each row of the data set; -1 where there is none."""
        usable = kept_prompts(run, None)  # without opening every shard
        digests = run.prompts()["sha256"].to_pylist()
        prompts = {digest: k for k, digest in enumerate(digests) if usable[k]}
        found = [
            prompts.get(token_ids_sha256(ids), -1)
            for batch in self._data.iter(10_000)
            for ids in _id_lists(batch)
        ]
        matched = np.array(found, np.int64)
        lacking = int((matched < 0).sum())
        if lacking == len(matched):
            raise InputError(
                f"{self._data_path}: none of {lacking} rows has the token ids of a prompt of run "
                f"{run.id}. Capture this data set (--corpus), or export the prompts of the run: "
                "lpp-analyze export --to speculators --only-prompts.",
                kind=ErrorKind.NOT_FOUND,
            )
        if lacking:
            warnings.warn(
                f"{lacking} of {len(matched)} rows of {self._data_path} are no prompts of run "
                f"{run.id}; --on-missing says what becomes of them.",
                stacklevel=2,
            )
        return matched

    def _states(self, group: int) -> tuple[int, npt.NDArray[Any], set[int]]:
        """The first row of a group, counted in the run; its states (sites, rows, width); and rows
        of prompts that were set aside, counted from the first.
        """
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        prompts = np.searchsorted(self._group_of, [group, group + 1])
        first, end = self._edges[prompts].tolist()
        column = self._source.columns[-1]
        shape = len(self._sites), self._longest, column.width
        states = self._memory.array(shape, column.dtype)[:, : end - first]
        self._source.read(first, end, [*states])
        aside = {*self._source.set_aside(first, end).tolist()}
        self._kept[group] = first, states, aside
        if len(self._kept) > self.at_once:
            self._kept.popitem(last=False)
        return self._kept[group]

    def get_cached(self, file_idx: int) -> dict[str, Any] | None:
        """`hidden_states` (n, layers + 1, d), as stored, and `token_ids` (n,) of a row; None for
        one that is no prompt of the run, or was set aside. FormatError names an altered shard.
        """
        import torch

        prompt = int(self._prompts[file_idx])
        if prompt < 0:
            return None
        before, states, aside = self._states(int(self._group_of[prompt]))
        first, end = (self._edges[prompt : prompt + 2] - before).tolist()
        if first in aside:
            return None
        bits = self._source.columns[-1].is_bfloat16
        # speculators copies what it reads into a batch: here it is not copied
        hidden = given(states[:, first:end], "torch", is_bfloat16=bits).transpose(0, 1)
        (ids,) = _id_lists(self._data[file_idx])
        return {"hidden_states": hidden, "token_ids": torch.from_numpy(ids.astype(np.int64))}

    def get_generated(self, hs_transfer_params: dict[str, Any]) -> dict[str, Any] | None:
        """InputError: a store generates nothing."""
        raise InputError(
            "a row of the data set is no prompt of the run, and a store generates no states. "
            "Capture it, or leave such rows out with --on-missing skip.",
            kind=ErrorKind.NOT_FOUND,
        )


@HiddenStatesBackend.register("lpp")
class StoreBackend(HiddenStatesBackend):  # type: ignore[misc]
    """`--hidden-states-backend lpp` of the trainer."""

    @staticmethod
    def add_train_args(parser: argparse.ArgumentParser) -> None:
        """`--lpp-store` and `--lpp-run`."""
        parser.add_argument("--lpp-store", type=str, help="The store with the hidden states.")
        parser.add_argument(
            "--lpp-run", type=str, default="*", help="Its run; may be left out if there is one."
        )
        parser.add_argument(
            "--lpp-order",
            choices=get_args(Order),
            default="groups",
            help="groups: random groups of neighbouring prompts, mixed, each unpacked once an "
            "epoch. uniform: the order of training from files, slower for short prompts.",
        )

    @staticmethod
    def add_launch_args(parser: argparse.ArgumentParser) -> None:
        """Nothing: no server is launched."""

    @staticmethod
    def from_train_args(args: argparse.Namespace, data_path: str) -> StoreTransfer:
        """The layers are those of `--target-layer-ids`, or the trainer's default."""
        if not args.lpp_store:
            raise InputError("--hidden-states-backend lpp reads a store: name it with --lpp-store.")
        run = open_store(args.lpp_store).run(args.lpp_run)
        n = run.plan.model.n_blocks
        layers = args.target_layer_ids or [2, n // 2, n - 3]
        if getattr(args, "speculator_type", "") == "mtp":
            layers = []  # it takes the last state alone
        sites = [CONVENTION.site(layer, n) for layer in layers]
        return StoreTransfer(run, [*sites, f"block.{n}"], data_path, args.lpp_order)

    @staticmethod
    def build_kv_transfer_config(args: argparse.Namespace) -> dict[str, Any]:
        """InputError: no server writes into a store."""
        raise InputError(
            "a store is written by lpp-capture run, not by a server that speculators launches."
        )


def _id_lists(rows: pa.Table) -> Iterator[npt.NDArray[Any]]:
    """Token ids of each row, little-endian int32, which hashing takes without a copy."""
    lists = rows["input_ids"].combine_chunks()
    # `flatten`: `values` are those of all rows that lie together
    values = lists.flatten().to_numpy().astype("<i4")
    edges = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return (values[first:end] for first, end in pairwise(edges.tolist()))
