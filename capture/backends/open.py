"""Choose the backend of a request, and load the model in it."""

from importlib.util import find_spec

from lpp.capture.models.device import KINDS
from lpp.capture.models.spec import LoadedModel
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.request import ROUTER, BackendName, CaptureRequest
from lpp.store.errors import InputError
from lpp.store.progress import SILENT, Progress


def open_backend(
    request: CaptureRequest,
    *,
    loaded: LoadedModel | None = None,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> Backend:
    """Load the model that `request` names in the backend that it asks for.

    loaded: the model, if it is already in memory; torch runs it. Raises InputError for options that
    do not fit together, a context longer than the model's and a model that the backend does not
    support; MachineError for what the machine lacks.
    """
    name = "torch" if loaded is not None else choose_backend(request)
    if name == "torch":
        from lpp.capture.backends.torch_backend import TorchBackend

        return TorchBackend.load(request, loaded=loaded, progress=progress, quiet=quiet)
    if name == "vllm":
        from lpp.capture.backends.vllm.backend import VllmBackend

        return VllmBackend.load(request, progress=progress, quiet=quiet)
    from lpp.capture.backends.joined import JoinedBackend

    return JoinedBackend.load(request, progress=progress, quiet=quiet)


def choose_backend(request: CaptureRequest) -> BackendName:
    """The backend for `request`. Raises InputError for options that do not fit that backend."""
    spec = request.model
    for_torch = {
        "--device-map": spec.device_map is not None,
        "--quantization": spec.quantization is not None,
        "--attention": spec.attention != "auto",
        "--logit-positions none": request.logit_positions == "none",
        "--sites routers": any(pattern.startswith(ROUTER) for pattern in request.sites),
    }
    for_vllm = {
        "--tensor-parallel": request.tensor_parallel > 1,
        "--engine-option": bool(request.engine_options),
        "--check-sites": request.check_sites,
    }
    name = request.backend
    if name == "auto":
        served = (
            find_spec("vllm") is not None and spec.device in KINDS and KINDS[spec.device].served
        )
        wants_vllm = any(for_vllm.values()) or (served and not any(for_torch.values()))
        name = "vllm" if wants_vllm else "torch"
    # if only one backend quantised it, there would be two models; without logits vLLM idles; and
    # its logits could come from other experts
    alone = {"--quantization", "--logit-positions none", "--sites routers"}
    both = {*for_torch, *for_vllm} - alone
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
            f"--backend {other}."
        )
    return name
