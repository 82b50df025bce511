"""What differs between kinds of devices, and the choice of the device that a capture computes on.

No other file of the package asks for the name of a device. What `KINDS` says of a kind is torch's
documentation; `tried` says whether anybody has run this package on one.

Imports no torch before a device is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from lpp.store.errors import ErrorKind, InputError, MachineError

if TYPE_CHECKING:
    import torch

AUTO: Final = "auto"

_DRIVERS: Final = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd", "/dev/dri", "/System")
"""Files of the systems on which torch can see an accelerator: NVIDIA's cards and modules, WSL,
AMD's and Intel's cards, macOS. Without any of them torch need not be imported to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKind:
    """What a capture must know of a kind of device."""

    tried: str
    """Whether a capture has run on one, for users."""
    on_host: bool = False
    """Whether tensors are in host memory, so that a hook copies rows straight to a shard."""
    copies_aside: bool = True
    """Whether a second stream copies rows into page-locked memory while the pass continues."""
    page_lock: Literal["register", "allocate"] | None = None
    """How memory for a shard is page-locked: registered with CUDA's runtime, allocated by torch, or
    not at all."""
    float64: bool = False
    """Whether it computes in float64, and torch compiles for it; otherwise sums end on the CPU."""
    served: bool = False
    """Whether `--backend auto` takes vLLM if vLLM is installed."""
    shard_bytes: int = 2 << 30
    """Bytes of a shard's activations over all sites, before compression. A batch never spans two
    shards, so a shard on a GPU holds at least two batches of `BATCH_BYTES`. At 7B, with 215 kB a
    token over 30 sites, a shard is 50 prompts of 200 tokens and a batch is 25 of them."""
    batch_tokens: int = 16384
    """Tokens of a batch, unless their rows exceed `BATCH_BYTES`."""
    writing_tokens: int = 16384
    """Tokens of the prompts that are continued together, continuations included: their key-value
    cache takes 2 GiB or less in most models. A step reads all weights whatever the number of
    prompts, so with more prompts at once each costs less."""
    block_prompts: int = 256
    """Prompts that are continued before they are written to the store: a kill loses one block."""


KINDS: Final[dict[str, DeviceKind]] = {
    "cpu": DeviceKind(
        tried="every test runs here",
        on_host=True,
        copies_aside=False,
        float64=True,
        shard_bytes=256 << 20,
        batch_tokens=2048,
        writing_tokens=8192,
        block_prompts=64,
    ),
    # AMD's cards answer to this name too
    "cuda": DeviceKind(
        tried="tried on a simulated card alone",
        page_lock="register",
        float64=True,
        served=True,
    ),
    "xpu": DeviceKind(tried="not tried by anybody", page_lock="allocate"),
    # one memory with the host, and neither a stream for copies nor a page lock
    "mps": DeviceKind(
        tried="not tried by anybody", copies_aside=False, shard_bytes=512 << 20, batch_tokens=4096
    ),
}


def kind_of(device: "str | torch.device") -> DeviceKind:
    """The kind of a device that `check_device` accepted."""
    return KINDS[kind_name(device)]


def kind_name(device: "str | torch.device") -> str:
    """The name of a device without its index: which of several cards it is changes no number."""
    return str(device).partition(":")[0]


def choose_device(wanted: str = AUTO) -> tuple[str, str]:
    """The device to compute on, and why. wanted: `auto`, or a name of one, which is not checked."""
    if wanted != AUTO:
        return wanted, "as the request says"
    driver = next((path for path in _DRIVERS if Path(path).exists()), None)
    if driver is None:
        return "cpu", "this machine has no GPU driver"
    try:
        found = _accelerator()
    except ImportError:
        return "cpu", "torch is not installed"
    if found is None:
        return "cpu", f"torch {version('torch')} sees no GPU, and there is {driver}"
    if found not in KINDS:
        return "cpu", f"capture does not run on {found}"
    return found, f"torch sees {card_name(found)}"


def why_device(device: str) -> str:
    """Why a capture computes on `device`, for users, and whether one has run on its kind."""
    chosen, why = choose_device()
    if kind_name(device) != chosen:
        why = f"as the request says; auto takes {chosen}"
    kind = kind_of(device)
    return why if kind.on_host else f"{why}; {kind.tried}"


def check_device(device: str) -> None:
    """Refuse a device that has no valid name or does not exist."""
    import torch

    kind, _, index = device.partition(":")
    if kind not in KINDS or (index and (kind_of(kind).on_host or not index.isdecimal())):
        names = ", ".join(KINDS)
        raise InputError(
            f"no device {device!r}: give --device {names} or {AUTO}; or one card, such as cuda:1."
        )
    if kind_of(kind).on_host:
        return
    if kind != _accelerator():
        raise MachineError(
            f"--device {device}: torch {torch.__version__} sees no {kind} device here. Use "
            f"--device {choose_device()[0]}, or install a torch for {kind} on a machine that has "
            "one.",
            kind=ErrorKind.NO_DEVICE,
        )
    count = device_module(kind).device_count()
    if int(index or 0) >= count:
        raise MachineError(
            f"--device {device}: this machine has {count}, {kind}:0 to {kind}:{count - 1}.",
            kind=ErrorKind.NO_DEVICE,
        )


def _accelerator() -> str | None:
    """The kind of the accelerator that torch sees; None for none."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None else found.type


def device_module(device: "str | torch.device") -> Any:
    """`torch.cuda`, or its like for the device: streams, events, memory."""
    import torch

    return torch.get_device_module(kind_name(device))


def card_name(device: str) -> str:
    """What the card is called; its kind where torch does not say."""
    return str(getattr(device_module(device), "get_device_name", kind_name)(device))


def card_memory(device: "str | torch.device") -> tuple[int, int]:
    """Free and all bytes of a card's memory."""
    module = device_module(device)
    if hasattr(module, "mem_get_info"):
        free, total = module.mem_get_info(device)
        return int(free), int(total)
    total = int(module.recommended_max_memory())
    return total - int(module.driver_allocated_memory()), total


def peak_of(device: "str | torch.device", work: Callable[[], object]) -> int | None:
    """Most bytes of tensors on any one card while `work` ran; None if torch does not count them."""
    module = device_module(device)
    if kind_of(device).on_host or not hasattr(module, "max_memory_allocated"):
        return None
    cards = range(module.device_count())
    for card in cards:
        module.reset_peak_memory_stats(card)
    work()
    return max(int(module.max_memory_allocated(card)) for card in cards)


def free_cached(device: "str | torch.device") -> None:
    """Give memory that torch keeps for later back to the card."""
    if not kind_of(device).on_host:
        device_module(device).empty_cache()
