"""A model opened in the backend that will run it.

Each backend loads a model in its own way and says the same of it: what a plan records, where its
sites are, and how to capture them.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Final, Protocol

from lpp.capture.backends.torch.backend import TorchBackend
from lpp.capture.models.load import load_model
from lpp.capture.models.sites import check_sites, find_sites
from lpp.capture.models.spec import ModelDescription, ModelSpec
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import BackendName, CaptureRequest
from lpp.store.commands.progress import Progress
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.plan import Keep, StoredDtype

BATCH_TOKENS: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens of a batch by kind of device, where the bytes of its rows allow them."""


class SiteMap(Protocol):
    """Where a model has sites, and how wide they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """In depth order."""

    @property
    def final_norm(self) -> object:
        """Something true where `final` is past a norm."""

    def width(self, name: str) -> int:
        """Columns of a site's rows."""


class OpenedModel(Protocol):
    """A model that is ready to run."""

    @property
    def name(self) -> BackendName:
        """What a plan calls the backend."""

    @property
    def described(self) -> ModelDescription:
        """What a plan records of the model."""

    @property
    def sites(self) -> SiteMap:
        """Where its sites are."""

    @property
    def device(self) -> str:
        """Kind of device, without the index: which card of several changes no number."""

    @property
    def attention(self) -> str:
        """The attention in use."""

    @property
    def device_map(self) -> str | None:
        """How it is spread over devices, where it is."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Releases that could change a number."""

    def backend(
        self, wanted: Sequence[str], stored_dtype: StoredDtype, keep: Keep = "rows"
    ) -> Backend:
        """Captures the sites `wanted`, for a plan that keeps `keep` of them."""

    def close(self) -> None:
        """Give its memory back."""


def open_model(request: CaptureRequest, *, progress: Progress, quiet: bool) -> OpenedModel:
    """Load the model that `request` names in the backend that it asks for.

    Raises InputError for options that do not go together, a context beyond the model and a model
    that the backend does not serve; MachineError for what the machine lacks.
    """
    name = choose_backend(request)
    if name == "torch":
        return TorchModel(request, progress=progress, quiet=quiet)
    from lpp.capture.backends.vllm.model import JoinedModel, VllmModel

    if name == "vllm":
        return VllmModel(request, progress=progress, quiet=quiet)
    return JoinedModel(request, progress=progress, quiet=quiet)


def choose_backend(request: CaptureRequest) -> BackendName:
    """The backend that runs `request`. Raises InputError for options that do not fit it."""
    spec = request.model
    for_torch = {
        "--device-map": spec.device_map is not None,
        "--quantization": spec.quantization is not None,
        "--attention": spec.attention != "auto",
    }
    for_vllm = {
        "--tensor-parallel": request.tensor_parallel > 1,
        "--engine-option": bool(request.engine_options),
    }
    name = request.backend
    if name == "auto":
        served = spec.device == "cuda" and find_spec("vllm") is not None
        wants_vllm = any(for_vllm.values()) or (served and not any(for_torch.values()))
        name = "vllm" if wants_vllm else "torch"
    # quantised by one backend and not by the other, they would be two models
    both = {option for option in (*for_torch, *for_vllm) if option != "--quantization"}
    followed = {"torch": set(for_torch), "vllm": set(for_vllm), "vllm+torch": both}[name]
    misfits = [
        option
        for option, given in (for_torch | for_vllm).items()
        if given and option not in followed
    ]
    if misfits:
        other = "vllm" if name == "torch" else "torch"
        raise InputError(
            f"--backend {name} cannot follow {', '.join(misfits)}. Leave it out, or use "
            f"--backend {other}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return name


def check_context(described: ModelDescription, context: int) -> None:
    """Refuse prompts that may be longer than the model has positions."""
    limit = described.max_positions
    if limit is not None and context > limit:
        raise InputError(
            f"--context {context} is beyond {described.id}, which has {limit} positions. "
            f"Choose --context {limit} or less.",
            kind=ErrorKind.INVALID_VALUE,
        )


class TorchModel:
    """A transformers model with its sites found and checked. Implements `OpenedModel`."""

    name: BackendName = "torch"

    def __init__(self, request: CaptureRequest, *, progress: Progress, quiet: bool) -> None:
        self._spec = request.model
        loaded = load_model(self._spec, progress=progress, quiet=quiet)
        check_context(loaded, request.context)
        self.device = loaded.device.partition(":")[0]
        if self.device not in BATCH_TOKENS:
            raise MachineError(
                f"the model was put on {loaded.device}, where capture does not run. "
                "Repeat without --device-map, with --device cpu or cuda.",
                kind=ErrorKind.NO_DEVICE,
            )
        self.described = loaded
        self.model = loaded.model
        self.attention = loaded.attention
        self.device_map: str | None = self._spec.device_map
        self.sites = find_sites(self.model)
        check_sites(self.model, self.sites)

    @property
    def versions(self) -> Mapping[str, str]:
        """Releases that could change a number."""
        return {name: version(name) for name in _computing(self._spec)}

    def backend(
        self, wanted: Sequence[str], stored_dtype: StoredDtype, keep: Keep = "rows"
    ) -> Backend:
        """Captures the sites `wanted`, for a plan that keeps `keep` of them."""
        return TorchBackend(self.model, self.sites, wanted, stored_dtype, keep)

    def close(self) -> None:
        """The model goes with its last reference."""


def _computing(spec: ModelSpec) -> list[str]:
    spread = spec.device_map is not None or spec.quantization is not None
    return [
        *("lpp-engine", "torch", "transformers"),
        *(["accelerate"] if spread else []),
        *(["bitsandbytes"] if spec.quantization is not None else []),
    ]
