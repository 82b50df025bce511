"""Connect to a Ray cluster, or start one on this machine that ends with the command.

Ray is an extra: only functions of this module and of the two executors import it.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, MachineError, first_line
from lpp.store.process.debugging import debugging
from lpp.store.process.packages import install_command

LOCAL: Final = "local"
"""Ray's name for a cluster of this machine, started and ended with the command."""

THREADS: Final = ("POLARS_MAX_THREADS", "ZARR_THREADING__MAX_WORKERS", "BLOSC_NTHREADS")
"""Set to 1, because a task has one processor. Ray limits BLAS and torch (OMP_NUM_THREADS)."""

CONNECT_SECONDS: Final = 10.0

QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics leave the machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray prints a warning
}


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected until the block ends.

    address: `auto` for a cluster that this machine is part of, HOST:PORT of its head, `local` for
    one of this machine's own; by default RAY_ADDRESS, or else `local`. A process that is already
    connected stays connected. MachineError: Ray is not installed, or no cluster answers at the
    address.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MachineError(
            "--executor ray needs the package ray, which is not installed here. "
            f"On every machine of the cluster: {install_command('ray')}. "
            "Or leave --executor out.",
            kind=ErrorKind.NO_PACKAGE,
        ) from None
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address or os.environ.get("RAY_ADDRESS") or LOCAL)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    try:
        _look_for(address)
        _start(ray, address)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        line = first_line(error).rstrip(".")
        raise MachineError(
            f"--address {address}: no Ray cluster there that can be used ({line}). See "
            "`ray status` on its head; the versions of Ray and of Python must equal those there. "
            "Without --address a cluster of this machine is started.",
            kind=ErrorKind.UNREACHABLE,
        ) from None


def _look_for(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray would retry for minutes."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        raise InputError(
            f"--address {address}: give HOST:PORT or auto on a machine of the cluster itself, or "
            "start the command there with `ray job submit`."
        )
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _start(ray: Any, address: str) -> None:
    options = {"include_dashboard": False} if address == LOCAL else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=debugging(),
            logging_level="INFO" if debugging() else "ERROR",
            runtime_env={"env_vars": dict.fromkeys(THREADS, "1")},
            **options,
        )
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray installs its own
