"""What loading needs of the machine (packages, memory), and advice on its failures."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lpp.store.errors import ErrorKind, InputError, LppError, MachineError
from lpp.store.process.packages import install_command

_NO_ROOM = ("out of memory", "not enough memory", "can't allocate memory")
_ON_DISK = ("safetensors", "json", "header", "expecting ", "deserializ")


def require(*packages: str, extra: str = "torch") -> None:
    """Raise an error with the command to install missing packages; imports nothing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"capturing needs {', '.join(missing)}, not installed here. "
            f"Install what is missing: {install_command(extra)}",
            kind=ErrorKind.NO_PACKAGE,
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or its cause, is a lack of memory, judged by its class.

    torch's allocator for CPUs raises a plain RuntimeError, and so does vLLM for any failure in a
    process of its own: for these the message decides.
    """
    torch = sys.modules.get("torch")  # without torch there is no such error
    classes = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    return any(
        isinstance(cause, classes)
        or (isinstance(cause, RuntimeError) and any(p in str(cause).lower() for p in _NO_ROOM))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then the error that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


@contextmanager
def explained(model: str, device: str) -> Iterator[None]:
    """Turn an error while a model loads into one that says what to do."""
    try:
        yield
    except LppError:
        raise
    except Exception as error:
        raise _explanation(model, device, error) from error


def _explanation(model: str, device: str, error: Exception) -> LppError:
    text = str(error).strip() or type(error).__name__
    line, lower = text.splitlines()[0].rstrip("."), text.lower()
    if out_of_memory(error):
        return MachineError(
            f"{model} does not fit into the memory of {device}. Use --dtype bfloat16, "
            "--device-map auto, --quantization int8, or a smaller model.",
            kind=ErrorKind.NO_MEMORY,
        )
    if isinstance(error, ImportError) and "requires a gpu" not in lower:
        return MachineError(
            f"{model} needs a package that is not installed here: {line}",
            kind=ErrorKind.NO_PACKAGE,
        )
    kind, advice = _advice(error, lower)
    return InputError(f"{model} {advice.format(line=line)}", kind=kind)


def _advice(error: Exception, lower: str) -> tuple[ErrorKind, str]:
    """What is wrong with the model itself, and what to do; {line} is the library's message."""
    if "trust_remote_code" in lower:
        return ErrorKind.UNSUPPORTED_MODEL, (
            "brings its own code, which is not run unless asked for. "
            "If you trust its authors, repeat with --trust-remote-code."
        )
    if "scaled_dot_product_attention" in lower:
        return ErrorKind.UNSUPPORTED_MODEL, (
            "cannot use --attention sdpa. Repeat with --attention eager."
        )
    if "have the same dtype" in lower:
        return ErrorKind.UNSUPPORTED_MODEL, (
            "has weights for another dtype: {line}. Repeat with --dtype bfloat16."
        )
    if type(error).__name__ == "SafetensorError" or any(word in lower for word in _ON_DISK):
        return ErrorKind.CORRUPT, (
            "has a file that cannot be read: {line}. Download or save it again."
        )
    if isinstance(error, OSError):
        return ErrorKind.NOT_FOUND, "lacks a file: {line}. Download or save it again."
    return ErrorKind.UNSUPPORTED_MODEL, (
        "cannot be loaded: {line}. `lpp-capture models NAME` says what was found of a class; "
        "--debug shows where it failed."
    )
