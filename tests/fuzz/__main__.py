"""Fuzz the readers: `python -m tests.fuzz SECONDS [TARGET...]`, or `make fuzz SECONDS=3600`.

Each target gets an equal share of the time, in a process of its own (atheris, which drives
libFuzzer, never returns). An input that raises or crashes is left in the working directory as
`TARGET-crash-CHECKSUM`, and the path is printed; `zip -j tests/fuzz/corpus/TARGET.zip FILE` makes a
test of it. A sample of the inputs that reached new code is added to the archive of the target.
Needs the extra `fuzz`.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.corpus import keep_inputs, kept_inputs

MAX_BYTES = 1 << 14
"""Longer inputs find nothing that short ones do not, and would fill the corpus."""

MEMORY = Path("/dev/shm")
"""Where the stores of a target lie, on machines that have it: every input is written."""

MEMORY_MIB = 3072
"""What a target may take; far more than the bounds of the readers allow."""

KEPT = 60
"""Inputs that a run adds to the corpus of a target, about."""

KEPT_BYTES = 24 << 10
"""Of the corpus of a target, the first inputs aside."""


def fuzz_one(target: str, options: list[str]) -> None:
    """Hand the process to the fuzzer."""
    import atheris

    with atheris.instrument_imports(include=["lpp"]):
        from tests.fuzz.targets import TARGETS
    logging.getLogger("lpp").setLevel(logging.ERROR)  # the cache logs what it does not take
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()


def run(target: str, seconds: int) -> bool:
    """Fuzz `target`; keep some of what reached new code. Whether nothing was wrong."""
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="lpp-fuzz-") as work,
        tempfile.TemporaryDirectory(prefix="lpp-fuzz-") as seeds,
        tempfile.TemporaryDirectory(prefix="lpp-fuzz-", dir=memory) as stores,
    ):
        known = kept_inputs(target)
        for name, data in known.items():
            (Path(seeds) / name).write_bytes(data)
        limits = [f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MEMORY_MIB}", "-timeout=20"]
        times = [f"-max_total_time={seconds}", "-print_final_stats=1"]
        left = f"-artifact_prefix={target}-"
        done = _process(target, [*limits, *times, left, work, seeds], stores)
        told = [line for line in done.stderr.splitlines() if _worth(line)]
        print(f"{target}:", *told, sep="\n  ", flush=True)
        keep_inputs(target, _sample(Path(work), known))
    return done.returncode == 0


def _worth(line: str) -> bool:
    words = ("executed_units", "new_units", "Error", "ERROR", "crash-", "oom-", "timeout-")
    return any(word in line for word in words)


def _sample(found: Path, known: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of the inputs found, small and large, what `KEPT_BYTES` leaves room for beside `known`."""
    room = KEPT_BYTES - sum(map(len, known.values()))
    inputs = sorted((p for p in found.iterdir() if p.is_file()), key=lambda p: p.stat().st_size)
    sample = {}
    for path in inputs[:: max(1, len(inputs) // KEPT)]:
        room -= path.stat().st_size
        if room > 0:
            sample[path.name] = path.read_bytes()
    return sample


def _process(
    target: str, options: list[object], temporary: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--one", target, *map(str, options)],
        check=False,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": temporary},
    )


def main(arguments: list[str]) -> int:
    """Every target, or those named, in turn; 1 where one was broken."""
    if arguments[:1] == ["--one"]:
        fuzz_one(arguments[1], arguments[2:])
        return 0
    seconds, *names = arguments
    from tests.fuzz.targets import TARGETS

    names = names or list(TARGETS)
    results = [run(name, max(1, int(seconds) // len(names))) for name in names]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
