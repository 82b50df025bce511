"""Code around a forward pass in vLLM's worker: find prompts, take rows, reduce logits.

A pass is searched for the prompts of the batch that have not finished yet, and their rows are
written directly to their destination in the batch. This happens before the driver reports which
prompts the pass finished. It is safe: if the rows were not a prompt's (padding that spells one, or
a prompt that the scheduler postponed), that prompt is still awaited, and its rows are overwritten
when it really runs. Within a pass real prompts come before padding, so the real one is found first.
Only finished prompts are counted, each once, and a batch is complete when all of them are.

With tensor parallelism every rank does this. Each rank has the whole states, so only the first rank
takes them. Statistics of logits need every rank, so all reduce the same rows in the same tiles.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.batch_rows import BatchRows, CopyStreams, Picked, to_device
from lpp.capture.backends.logit_statistics import (
    STATISTICS,
    TokenStatistics,
    logit_statistics,
)
from lpp.capture.backends.vllm.match import find_prompts, prompt_key
from lpp.capture.backends.vllm.sites import stream, stream_input
from lpp.capture.backends.vllm.unembedding import ShardedUnembeds
from lpp.capture.models.structure.sites import SiteModules, hooked
from lpp.capture.plan.backend import Batch, Outputs
from lpp.store.errors import ErrorKind, InputError


@dataclass(frozen=True, slots=True)
class Recorded:
    """The results of a batch, except its rows."""

    lost: int
    """Prompts that never ran through the model whole; if there are any, the other fields are
    empty."""
    statistics: Mapping[str, npt.NDArray[Any]]
    """Column -> (S,), in the order of the batch."""
    not_finite: Mapping[str, npt.NDArray[np.int64]] | None
    """As in `Captured`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """The prompts of the batch in one forward pass, in the order of the batch."""

    indices: npt.NDArray[np.int64]
    """Indices of the prompts in the batch, ascending."""
    rows: Picked
    logit_picks: Picked
    """The rows whose logits are reduced."""
    next_ids: torch.Tensor
    logit_rows: npt.NDArray[np.int64]
    """Index of each of `logit_picks` among the batch's S."""
    prompts: npt.NDArray[np.int64]
    """Index of the prompt of each of `logit_picks`."""


class Recorder:
    """Hooks on a model inside vLLM, for one capture.

    device: of the model's input. takes_rows: False on the ranks whose rows are not used.
    """

    def __init__(
        self,
        modules: SiteModules,
        outputs: Outputs,
        unembed: ShardedUnembeds,
        device: torch.device,
        *,
        takes_rows: bool,
    ) -> None:
        self._outputs, self._unembed, self._device = outputs, unembed, device
        self._takes_rows = takes_rows
        self._streams = CopyStreams()
        self._awaited: dict[bytes, list[int]] = {}
        self._rows: BatchRows | None = None
        self._pass: _Pass | None = None
        self._reduced: TokenStatistics | None = None
        self._hooks = ExitStack()
        # registered first: the rows to take are known before the first block runs
        before = modules.trunk.register_forward_pre_hook(self._before, with_kwargs=True)
        self._hooks.callback(before.remove)
        self._hooks.enter_context(
            hooked(
                modules,
                outputs.sites if takes_rows else (),
                self._take,
                read_input=stream_input(modules.sites.hidden_size),
                read_output=stream,
            )
        )
        after = modules.trunk.register_forward_hook(self._after)
        self._hooks.callback(after.remove)

    def close(self) -> None:
        """Take every hook off the model, and wait for copies of a batch that did not end."""
        self._hooks.close()
        self._streams.wait()

    def expect(self, batch: Batch) -> None:
        """Await a batch, whose rows are written to `batch.hidden`."""
        self._batch, self._pass = replace(batch, hidden={}), None
        self._next_ids = batch.next_ids.astype(np.int64)
        self._starts = np.cumsum([0, *batch.lengths])
        # of each prompt, the first of its rows among `logit_rows`
        self._logit_starts = np.searchsorted(batch.logit_rows, self._starts)
        self._keys = [prompt_key(ids) for ids in batch.inputs]
        # rows before a branch's own are skipped
        self._skipped = [len(batch.ids_before(prompt)) for prompt in batch.prompt_ids]
        self._awaited = {}
        for index, key in enumerate(self._keys):
            self._awaited.setdefault(key, []).append(index)
        self._statistics: list[tuple[TokenStatistics, npt.NDArray[np.int64]]] = []
        self._rows = BatchRows(batch, self._outputs, self._streams) if self._takes_rows else None

    def finished(self, places: Sequence[int]) -> None:
        """Count prompts that the engine finished in the last pass: their rows are final."""
        ran, self._pass = self._pass, None
        reduced, self._reduced = self._reduced, None
        if ran is None or reduced is None:
            return
        passed = Counter(self._keys[index] for index in ran.indices)
        done: list[int] = []
        for key, count in Counter(self._keys[index] for index in places).items():
            # Equal prompts have equal rows: which of them the engine means makes no difference.
            seen = min(count, passed[key])
            done += self._awaited[key][:seen]
            del self._awaited[key][:seen]
        is_final = np.isin(ran.prompts, done)
        if is_final.all():
            self._statistics.append((reduced, ran.logit_rows))
        elif is_final.any():
            which = to_device(torch.from_numpy(np.flatnonzero(is_final)), reduced.entropy.device)
            statistics = TokenStatistics(
                **{name: getattr(reduced, name).index_select(0, which) for name in STATISTICS}
            )
            self._statistics.append((statistics, ran.logit_rows[is_final]))

    def result(self) -> Recorded | None:
        """Wait for the rows of the batch; None on a rank that takes no rows."""
        rows, self._rows = self._rows, None  # nothing refers to the memory of the batch after this
        if rows is None:
            return None
        if lost := sum(map(len, self._awaited.values())):
            self._streams.wait()
            return Recorded(lost, {}, None)
        logit_rows = np.concatenate([indices for _, indices in self._statistics])
        in_order = bool((logit_rows == np.arange(len(logit_rows))).all())
        rows.finish(
            [statistics for statistics, _ in self._statistics],
            None if in_order else torch.from_numpy(logit_rows),
        )
        rows.wait()
        return Recorded(0, rows.statistics(), rows.not_finite())

    def _before(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids, positions = kwargs.get("input_ids"), kwargs.get("positions")
        if positions is not None and positions.ndim == 2:
            positions = positions[0]  # (rows, tokens): of text alone, every row counts tokens
        if ids is None or positions is None or positions.ndim != 1:
            raise InputError(
                "this model's inputs inside vLLM are not token ids at positions (it is "
                "multimodal, perhaps). Capture it with --backend torch.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
        # The only wait for the device, before anything of this pass has been launched.
        flat_ids, flat_positions = torch.stack([ids.long(), positions.long()]).cpu().numpy()
        counts = {key: len(indices) for key, indices in self._awaited.items()}
        matches = find_prompts(flat_ids.astype(np.int32), flat_positions, counts)
        next_index = {key: iter(indices) for key, indices in self._awaited.items()}
        self._pass = self._reduced = None
        if matches:
            self._pass = self._in_order(
                {next(next_index[match.key]): match.start for match in matches}
            )

    def _in_order(self, starts: Mapping[int, int]) -> _Pass:
        """The matched prompts in batch order. starts: index in batch -> first row in the pass."""
        batch, indices = self._batch, sorted(starts)
        spans: list[tuple[int, int]] = []
        rows, picks, logit_rows, prompts = [], [], [], []
        for index in indices:
            first, end = int(self._starts[index]), int(self._starts[index + 1])
            if spans and spans[-1][1] == first:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((first, end))
            # from a row of the batch to the row of the pass
            shift = starts[index] + self._skipped[index] - first
            rows.append(np.arange(first, end) + shift)
            of_prompt = np.arange(self._logit_starts[index], self._logit_starts[index + 1])
            picks.append(batch.logit_rows[of_prompt] + shift)
            logit_rows.append(of_prompt)
            prompts.append(np.full(len(of_prompt), index))
        which = np.concatenate(logit_rows)
        return _Pass(
            indices=np.array(indices),
            rows=Picked(torch.from_numpy(np.concatenate(rows)), self._device, spans),
            logit_picks=Picked(torch.from_numpy(np.concatenate(picks)), self._device, []),
            next_ids=to_device(torch.from_numpy(self._next_ids[which]), self._unembed.device),
            logit_rows=which,
            prompts=np.concatenate(prompts),
        )

    def _take(self, site: str, state: torch.Tensor) -> None:
        if self._pass is not None:
            assert self._rows is not None
            self._rows.take(site, state, self._pass.rows)

    def _after(self, module: Any, args: Any, output: Any) -> None:
        if self._pass is None:
            return
        final = stream(output)
        picked = final.index_select(0, self._pass.logit_picks.on(final.device))
        self._reduced = logit_statistics(
            picked, self._unembed, self._pass.next_ids, shard=self._unembed.shard
        )
