"""speculators reads a store in place: importing this module registers its backend `lpp`.

speculators looks for no plug-ins, so the import has to come before that of its trainer, as in
`python -m lpp.store.exchange.train_speculators`. A row of the data set is given the states of the
prompt with the same token ids: any data set of the captured prompts will do, in any order. Each
read is checked, as every read of a store.
"""

import argparse
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lpp.store.errors import ErrorKind, FormatError, InputError, MachineError
from lpp.store.exchange.convention import Convention
from lpp.store.exchange.export import select
from lpp.store.exchange.projects import project
from lpp.store.exchange.selection import prompt_rows
from lpp.store.feed.checks import check_feed
from lpp.store.feed.chosen import readable_prompts
from lpp.store.feed.output import given
from lpp.store.format.rows import token_ids_sha256
from lpp.store.runs.read import Run
from lpp.store.store import open_store

try:
    from hs_connectors import HiddenStatesBackend, HiddenStatesTransfer
except ImportError:
    raise MachineError(
        "speculators is not installed here: pip install speculators.", kind=ErrorKind.NO_PACKAGE
    ) from None

CONVENTION: Convention = project("speculators")


class StoreTransfer(HiddenStatesTransfer):  # type: ignore[misc]  # of speculators
    """States of the rows of a data set, from a run.

    data_path: a data set of `save_to_disk`. sites: of each layer, then of the last state. Raises
    InputError for a run that lacks one, for missing shards, and if no row is a prompt of the run.
    """

    def __init__(self, run: Run, sites: Sequence[str], data_path: str) -> None:
        self._sites = select(run, CONVENTION, sites).sites
        check_feed([run], self._sites, "float32", rank=0, world=1, on_damage="raise")
        self._place = run.directory.root, run.id
        self._data_path = data_path
        self._prompts = self._matched(run)

    def __getstate__(self) -> dict[str, Any]:
        """Without what each worker opens for itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_run", "_data")}

    @cached_property
    def _run(self) -> Run:
        root, run = self._place
        return open_store(root).runs[run]

    @cached_property
    def _data(self) -> Any:
        from datasets import load_from_disk

        return load_from_disk(self._data_path).select_columns(["input_ids"]).with_format("numpy")

    def _matched(self, run: Run) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """(rows,) the prompt with the ids of each row of the data set; -1 where there is none."""
        usable = readable_prompts(run)
        digests = run.prompts()["sha256"].to_pylist()
        prompts = {digest: k for k, digest in enumerate(digests) if usable[k]}
        found = [
            prompts.get(token_ids_sha256(ids), -1)
            for batch in self._data.iter(1000)
            for ids in batch["input_ids"]
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

    def get_cached(self, file_idx: int) -> dict[str, Any] | None:
        """`hidden_states` (n, layers + 1, d), as stored, and `token_ids` (n,) of a row; None for
        one that is no prompt of the run. FormatError names a shard that is altered.
        """
        import torch

        prompt = int(self._prompts[file_idx])
        if prompt < 0:
            return None
        ids = np.asarray(self._data[file_idx]["input_ids"], np.int64)
        states = [prompt_rows(self._run, site, prompt, prompt + 1) for site in self._sites]
        if {len(rows) for rows in states} != {len(ids)}:
            raise FormatError(
                f"run {self._run.id}: prompt {prompt} has no row for each of its tokens. "
                "`lpp-analyze verify` says what was altered.",
                kind=ErrorKind.CORRUPT,
            )
        tensors = [given(rows, "torch", is_bfloat16=rows.dtype == np.uint16) for rows in states]
        return {"hidden_states": torch.stack(tensors, dim=1), "token_ids": torch.from_numpy(ids)}

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

    @staticmethod
    def add_launch_args(parser: argparse.ArgumentParser) -> None:
        """Nothing: no server is launched."""

    @staticmethod
    def from_train_args(args: argparse.Namespace, data_path: str) -> StoreTransfer:
        """The layers are those of `--target-layer-ids`, or the trainer's default."""
        if not args.lpp_store:
            raise InputError(
                "--hidden-states-backend lpp reads a store: name it with --lpp-store.",
                kind=ErrorKind.INVALID_VALUE,
            )
        run = open_store(args.lpp_store).run(args.lpp_run)
        n = run.plan.model.n_blocks
        layers = args.target_layer_ids or [2, n // 2, n - 3]
        if getattr(args, "speculator_type", "") == "mtp":
            layers = []  # it takes the last state alone
        sites = [CONVENTION.site(layer, n) for layer in layers]
        return StoreTransfer(run, [*sites, f"block.{n}"], data_path)

    @staticmethod
    def build_kv_transfer_config(args: argparse.Namespace) -> dict[str, Any]:
        """InputError: no server writes into a store."""
        raise InputError(
            "a store is written by lpp-capture run, not by a server that speculators launches.",
            kind=ErrorKind.INVALID_VALUE,
        )
