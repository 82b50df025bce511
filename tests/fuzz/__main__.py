"""Fuzz the readers: `python -m tests.fuzz SECONDS [TARGET...]`, or `make fuzz SECONDS=3600`.

Each target gets an equal share of the time, in a process of its own (atheris, which drives
libFuzzer, never returns). What raises or crashes is left as `crash-*` in the working directory,
named on the way; copied into `corpus/TARGET` it becomes a test. A sample of what reached new code
is added to the corpus. Needs the extra `fuzz`.
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
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
    seeds = CORPUS / target
    seeds.mkdir(parents=True, exist_ok=True)
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="lpp-fuzz-") as work,
        tempfile.TemporaryDirectory(prefix="lpp-fuzz-", dir=memory) as stores,
    ):
        limits = [f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MEMORY_MIB}", "-timeout=20"]
        times = [f"-max_total_time={seconds}", "-print_final_stats=1"]
        done = _process(target, [*limits, *times, work, seeds], stores)
        told = [line for line in done.stderr.splitlines() if _worth(line)]
        print(f"{target}:", *told, sep="\n  ", flush=True)
        _keep(Path(work), seeds)
    return done.returncode == 0


def _worth(line: str) -> bool:
    words = ("executed_units", "new_units", "Error", "ERROR", "crash-", "oom-", "timeout-")
    return any(word in line for word in words)


def _keep(found: Path, seeds: Path) -> None:
    """A sample, small and large, up to `KEPT_BYTES` with what is there already."""
    room = KEPT_BYTES - sum(path.stat().st_size for path in seeds.iterdir())
    inputs = sorted((p for p in found.iterdir() if p.is_file()), key=lambda p: p.stat().st_size)
    for path in inputs[:: max(1, len(inputs) // KEPT)]:
        room -= path.stat().st_size
        if room > 0:
            (seeds / path.name).write_bytes(path.read_bytes())


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
