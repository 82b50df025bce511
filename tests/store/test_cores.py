"""How many cores a process was given: affinity, a container's limit, a task of Slurm."""

from pathlib import Path

import pytest

from lpp.store.arrays import decode_pool


@pytest.mark.parametrize(
    ("cpu_max", "slurm", "cores"),
    [
        (None, {}, 12),
        ("max 100000", {}, 12),
        ("400000 100000", {}, 4),
        ("250000 100000", {}, 2),
        ("50000 100000", {}, 1),
        ("nonsense", {}, 12),
        (None, {"SLURM_CPUS_PER_TASK": "3", "SLURM_STEP_ID": "0"}, 3),
        (None, {"SLURM_CPUS_PER_TASK": "3"}, 12),  # a batch script outside of srun
        ("800000 100000", {"SLURM_CPUS_PER_TASK": "16", "SLURM_STEP_ID": "0"}, 8),
    ],
)
def test_the_least_of_what_was_given_counts(
    cpu_max: str | None,
    slurm: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if cpu_max is not None:
        (tmp_path / "cpu.max").write_text(f"{cpu_max}\n")
    monkeypatch.setattr(decode_pool, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert decode_pool.usable_cores() == cores
