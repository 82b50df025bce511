"""The methods that capture adds to vLLM's worker.

`CaptureExtension` becomes a base class of the worker (`worker_extension_cls`), and its methods are
called by name on every rank (`collective_rpc`). They touch two things of vLLM: the model, and its
`compute_logits`. No runner's own state is read, of which vLLM has several.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from lpp.capture.backends.vllm.handover import InProcess, SharedFile
from lpp.capture.backends.vllm.recorder import Awaited, Recorder, Taken
from lpp.capture.backends.vllm.sites import EngineSites, NormCheck, find_engine_sites
from lpp.store.commands.signals import REQUESTS


class EngineUnembedding:
    """vLLM's own way from final states to logits. Implements `logit_stats.Unembeds`.

    sample: any logits it made; None on a rank that gets none, where `out` stays as it is and
    what is made of it is thrown away.
    """

    def __init__(self, model: Any, sample: torch.Tensor | None, vocabulary: int) -> None:
        self._model = model
        weight = next(model.parameters())
        self.vocabulary = vocabulary
        self.dtype: torch.dtype = weight.dtype if sample is None else sample.dtype
        self.device: torch.device = weight.device

    def logits(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """rows: (n, width of `final`). out: (n, V), is overwritten."""
        made = self._model.compute_logits(rows)
        if made is not None:
            out.copy_(made)


class CaptureExtension:
    """Mixed into vLLM's worker. Every method runs on every rank."""

    rank: int
    """Of this worker, from vLLM."""
    get_model: Callable[[], torch.nn.Module]
    """vLLM's own. Declared only: vLLM refuses an extension that has an attribute of its worker."""
    _lpp_sites: EngineSites
    _lpp_probe: NormCheck
    _lpp_probing: ExitStack
    _lpp_logits: torch.Tensor | None
    _lpp_recorder: Recorder | None = None
    _lpp_heard: Mapping[signal.Signals, Any] = {}

    def lpp_watch(self, n_blocks: int, hidden_size: int) -> dict[str, Any]:
        """Find the sites and watch the next forward pass; returns what is known without one."""
        model = self.get_model()
        self._lpp_sites = find_engine_sites(model, n_blocks, hidden_size)
        self._lpp_probe = NormCheck(self._lpp_sites)
        self._lpp_probing = ExitStack()
        self._lpp_probing.enter_context(self._lpp_probe.watching())
        return {"attention": attention_backends(model)}

    @torch.inference_mode()
    def lpp_watched(self) -> dict[str, Any]:
        """What that pass showed: the check of `NormCheck`, widths and dtypes."""
        self._lpp_probing.close()
        final = self._lpp_probe.final
        model: Any = self._lpp_sites.model
        logits: torch.Tensor | None = model.compute_logits(final[:1])
        self._lpp_logits = logits
        return {
            "difference": self._lpp_probe.difference(),
            "final_norm": self._lpp_probe.has_norm,
            "final_size": int(final.shape[-1]),
            "logits_width": None if logits is None else int(logits.shape[-1]),
            "dtype": str(final.dtype).removeprefix("torch."),
        }

    def lpp_start(self, wanted: Sequence[str], dtype: str, vocabulary: int, driver: int) -> None:
        """Hooks on. driver: process id of who will take the rows."""
        self.lpp_stop()
        if driver != os.getpid():
            self._lpp_heard = deaf()
        handover = None
        if self.rank == 0:
            handover = InProcess() if driver == os.getpid() else SharedFile()
        self._lpp_recorder = Recorder(
            self._lpp_sites,
            wanted,
            EngineUnembedding(self._lpp_sites.model, self._lpp_logits, vocabulary),
            getattr(torch, dtype),
            handover,
        )

    def lpp_expect(self, slot: int, awaited: Sequence[Awaited]) -> None:
        """Await a batch of prompts."""
        assert self._lpp_recorder is not None
        self._lpp_recorder.expect(slot, awaited)

    def lpp_take(self, finished: Sequence[int]) -> Taken | None:
        """Rows of the last pass that belong to prompts in `finished`; the first rank has them."""
        assert self._lpp_recorder is not None
        return self._lpp_recorder.take(finished)

    def lpp_stop(self) -> None:
        """Hooks off."""
        if self._lpp_recorder is not None:
            self._lpp_recorder.close()
            self._lpp_recorder = None
        for number, handler in self._lpp_heard.items():
            signal.signal(number, handler)
        self._lpp_heard = {}

    def lpp_hooks(self) -> int:
        """How many of our hooks the model carries."""
        return sum(
            getattr(hook, "__module__", "").startswith("lpp.")
            for module in self.get_model().modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )


def deaf() -> dict[signal.Signals, Any]:
    """Leave requests to end to the driver; returns the handlers that heard them.

    A terminal and a scheduler tell every process of the group, and a worker that obeyed would take
    the shard with it that its driver wants to finish. A worker ends when its driver does.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}  # only there can handlers be set, and only there do they run
    return {number: signal.signal(number, signal.SIG_IGN) for number in REQUESTS}


def attention_backends(model: torch.nn.Module) -> list[str]:
    """Names of the attention kernels in use, as vLLM calls them."""
    names = set()
    for module in model.modules():
        get = getattr(module, "get_attn_backend", None)
        if callable(get):
            names.add(str(get().get_name()))
    return sorted(names)
