"""The methods that capture adds to vLLM's worker.

`CaptureExtension` becomes a base class of the worker (`worker_extension_cls`), and its methods are
called by name on every rank (`collective_rpc`). They use three things of vLLM: the model, its
`compute_logits`, and the group of the ranks. They do not read the state of a model runner, of which
vLLM has several kinds.
"""

import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from lpp.capture.backends.vllm.head import RankHead, rank_head
from lpp.capture.backends.vllm.recorder import Recorded, Recorder
from lpp.capture.backends.vllm.sites import SiteProbe
from lpp.capture.backends.vllm.unembedding import ShardedUnembeds, find_unembedding
from lpp.capture.backends.vllm.worker_memory import Location, RankMemory
from lpp.capture.models.structure.sites import SiteModules
from lpp.capture.plan.backend import Batch, Outputs
from lpp.store.process.signals import REQUESTS


class CaptureExtension:
    """Mixed into vLLM's worker. Every method runs on every rank; the first rank has the rows."""

    rank: int
    """Rank of this worker, from vLLM."""
    get_model: Callable[[], torch.nn.Module]
    """vLLM's own. Declared only: vLLM refuses an extension that has an attribute of its worker."""
    _lpp_probe: SiteProbe
    _lpp_probing: ExitStack
    _lpp_modules: SiteModules
    _lpp_unembed: ShardedUnembeds
    _lpp_recorder: Recorder | None = None
    _lpp_memory: RankMemory | None = None
    _lpp_ignored: Mapping[signal.Signals, Any] = {}

    def lpp_watch(self, n_blocks: int, hidden_size: int) -> dict[str, Any]:
        """Watch the next forward pass for the sites; returns what is known before it."""
        model = self.get_model()
        self._lpp_probe = SiteProbe(model, n_blocks, hidden_size)
        self._lpp_probing = ExitStack()
        self._lpp_probing.enter_context(self._lpp_probe.watching())
        return {"attention": attention_backends(model)}

    @torch.inference_mode()
    def lpp_watched(self) -> dict[str, Any]:
        """The result of that pass: the sites, the check of `SiteProbe`, the width of the logits."""
        self._lpp_probing.close()
        self._lpp_modules = self._lpp_probe.modules()
        model: Any = self._lpp_modules.trunk
        logits: torch.Tensor | None = model.compute_logits(self._lpp_probe.final[:1])
        return {
            "sites": self._lpp_modules.sites,
            "difference": self._lpp_probe.difference(),
            "logits_width": None if logits is None else int(logits.shape[-1]),
        }

    def lpp_unembed(self, vocabulary: int) -> bool:
        """Find the unembedding; returns whether each rank reduces its own columns of the logits.

        vocabulary: width of the logits, from `lpp_watched`.
        """
        self._lpp_unembed = find_unembedding(
            self._lpp_modules.trunk, self._lpp_probe.final, vocabulary, tensor_parallel_group()
        )
        return self._lpp_unembed.shard is not None

    def lpp_head(self) -> RankHead | str:
        """The part of the unembedding on this rank, or why it cannot be stored."""
        return rank_head(self._lpp_modules.trunk, self._lpp_probe.final)

    def lpp_map(self, path: str) -> None:
        """Map memory that the driver has allocated for rows."""
        if self.rank == 0:
            if self._lpp_memory is None:
                self._lpp_memory = RankMemory(_device(self.get_model()))
            self._lpp_memory.map(path)

    def lpp_start(self, outputs: Outputs, driver: int, memory: Collection[str]) -> None:
        """Install hooks. driver: id of the process that reads the rows. memory: paths it still
        uses.
        """
        self.lpp_stop()
        if driver != os.getpid():
            self._lpp_ignored = ignore_requests()
        if self._lpp_memory is not None:
            self._lpp_memory.keep(memory)
        self._lpp_recorder = Recorder(
            self._lpp_modules,
            outputs,
            self._lpp_unembed,
            _device(self._lpp_modules.trunk),
            takes_rows=self.rank == 0,
        )

    def lpp_expect(self, batch: Batch, locations: Mapping[str, Location]) -> None:
        """Await a batch. locations: of its rows, if they are not in `batch.hidden`."""
        assert self._lpp_recorder is not None
        if locations and self._lpp_memory is not None:
            batch = replace(batch, hidden=self._lpp_memory.arrays(locations))
        self._lpp_recorder.expect(batch)

    def lpp_finished(self, places: Sequence[int]) -> None:
        """Count the prompts at indices `places` of the batch as finished by the last pass."""
        assert self._lpp_recorder is not None
        self._lpp_recorder.finished(places)

    def lpp_result(self) -> Recorded | None:
        """Wait for the rows of the batch; the first rank returns its statistics."""
        assert self._lpp_recorder is not None
        return self._lpp_recorder.result()

    def lpp_stop(self) -> None:
        """Remove hooks."""
        if self._lpp_recorder is not None:
            self._lpp_recorder.close()
        for number, handler in self._lpp_ignored.items():
            signal.signal(number, handler)
        self._lpp_ignored = {}

    def lpp_hooks(self) -> int:
        """Number of capture's hooks on the model."""
        return sum(
            getattr(hook, "__module__", "").startswith("lpp.")
            for module in self.get_model().modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def tensor_parallel_group() -> Any:
    """Torch's group of the ranks that share the model; None if there is only one."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    return group.device_group if group.world_size > 1 else None


def ignore_requests() -> dict[signal.Signals, Any]:
    """Ignore requests to stop, which the driver handles; returns the previous handlers.

    A terminal and a scheduler signal every process of the group. A worker that stopped at once
    would lose the shard that its driver wants to finish. A worker ends when its driver does.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}  # handlers can only be set, and only run, in the main thread
    return {number: signal.signal(number, signal.SIG_IGN) for number in REQUESTS}


def attention_backends(model: torch.nn.Module) -> list[str]:
    """Names of the attention kernels in use, in vLLM's terms."""
    names = set()
    for module in model.modules():
        get = getattr(module, "get_attn_backend", None)
        if callable(get):
            names.add(str(get().get_name()))
    return sorted(names)
