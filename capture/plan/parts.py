"""One run on several independent processes: each takes every n-th shard.

The plan does not depend on the number of processes. Shards are dealt round robin rather than cut
into ranges, so the first shards are done first, and the part that can be analysed grows while the
processes run (`Run.n_prompts` ends at the first gap).

Parts count from 0, as ranks do.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lpp.store.errors import InputError


@dataclass(frozen=True)
class Part:
    """Process `index` of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def shards(self, n_shards: int) -> range:
        """Its shards of `n_shards`; the parts of one count have each shard exactly once.

        >>> list(Part(1, 3).shards(8))
        [1, 4, 7]
        """
        return range(self.index, n_shards, self.count)


WHOLE: Final = Part(0, 1)
"""One process captures everything."""


def parse_part(text: str, environment: Mapping[str, str]) -> Part:
    """The part that `text` names: `2/8`, or `slurm` for what Slurm says in `environment`.

    Raises InputError for anything else, and where Slurm sets no variables.
    """
    if text == "slurm":
        return slurm_part(environment)
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise InputError(
            f"--part {text}: give K/N with K from 0 to N - 1, such as 0/8 to 7/8, or slurm."
        )
    return Part(int(match[1]), int(match[2]))


def slurm_part(environment: Mapping[str, str]) -> Part:
    """The part of this task of a Slurm step, of this element of a Slurm array, or of both.

    Within `srun` the part is SLURM_PROCID of SLURM_STEP_NUM_TASKS. SLURM_PROCID alone is not
    enough: a batch script outside `srun` has it too, always 0, and the other parts would never run.
    The indices of an array may start anywhere and have equal steps.
    https://slurm.schedmd.com/srun.html and job_array.html.
    """
    array, task = _array_element(environment), _step_task(environment)
    if array is None and task is None:
        raise InputError(
            "--part slurm: this is neither a task of srun nor an element of an array "
            "(SLURM_STEP_NUM_TASKS and SLURM_ARRAY_TASK_ID are not set). "
            "Start it with srun or sbatch --array, or give --part K/N."
        )
    array, task = array or WHOLE, task or WHOLE
    return Part(array.index * task.count + task.index, array.count * task.count)


def _step_task(environment: Mapping[str, str]) -> Part | None:
    if "SLURM_STEP_NUM_TASKS" in environment:
        return Part(*(_number(environment, f"SLURM_{n}") for n in ("PROCID", "STEP_NUM_TASKS")))
    tasks = environment.get("SLURM_NTASKS", "1")
    if tasks != "1":
        raise InputError(
            f"--part slurm: the job has {tasks} tasks and this is none of them, but the batch "
            "script. Put srun before lpp-capture."
        )
    return None


def _array_element(environment: Mapping[str, str]) -> Part | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    identity, first, last, count = (
        _number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "MAX", "COUNT")
    )
    step = (last - first) // max(count - 1, 1) or 1
    if first + step * (count - 1) != last or (identity - first) % step:
        raise InputError(
            f"--part slurm: the elements of this array ({count} from {first} to {last}) are not "
            "evenly spaced, so element "
            f"{identity} has no place among them. Give --part K/N as the whole array did."
        )
    return Part((identity - first) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdecimal():
        raise InputError(f"--part slurm: {name} is {value!r}, not a number. Give --part K/N.")
    return int(value)
