"""Two runs of one task in a store: the second answers some items differently."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluated_items import ANSWERS, EvaluatedRun, evaluated_run
from made_runs import Made, MakeRun

TASK = "tiny_task"

Flips = Callable[[Made, Made, int, int], bool]
"""(run A, run B, prompt of A's answer, position before it) -> whether a right item flips."""


@dataclass(frozen=True)
class TwoRuns:
    """The two runs as written."""

    a: EvaluatedRun
    b: EvaluatedRun

    @property
    def root(self) -> Path:
        return self.a.root


def two_runs(
    make_run: MakeRun,
    *,
    items: int = 120,
    right: Callable[[int], bool] = lambda item: True,
    flips: Flips = lambda a, b, prompt, answer: prompt % 2 == 0,
    gained: Collection[int] = (),
    moved: Collection[int] = (),
    changes: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    options: Mapping[str, Any] | None = None,
    **both: Any,
) -> TwoRuns:
    """Two runs of one task.

    right: items that are right in A. gained: items that are wrong in A and right in B. moved: items
    that are wrong in both, with another answer in B. changes: applied to each row of B. options: of
    run B alone; `both`: of both runs.
    """
    counted = iter(range(items))
    a = evaluated_run(
        make_run,
        items=items,
        right=lambda *_: right(next(counted)),
        model="tiny/first",
        source="of a",
        **both,
    )
    of_a = iter(a.rows)
    correct: list[bool] = []

    def right_in_b(made: Made, prompt: int, answer: int) -> bool:
        row = next(of_a)
        stays = row["correct"] and not flips(a.made, made, prompt, answer)
        correct.append(bool(stays or row["item"] in gained))
        return correct[-1]

    def of_b(row: dict[str, Any]) -> dict[str, Any]:
        before = a.rows[row["item"]]
        gold, chosen = before["gold"], before["chosen"]
        if row["correct"]:
            chosen = gold
        elif chosen == gold:
            chosen = (gold + 1) % ANSWERS
        elif row["item"] in moved:
            chosen = 3 - gold - chosen  # the third of three
        logprobs = list(before["log_likelihoods"])
        most = logprobs.index(max(logprobs))
        logprobs[most], logprobs[chosen] = logprobs[chosen], logprobs[most]
        kept = {"gold": gold, "chosen": chosen, "log_likelihoods": logprobs}
        return changes(row | kept)

    of_second: dict[str, Any] = {"model": "tiny/second", "source": "of b", "seed": 5}
    of_second |= both | dict(options or {})
    b = evaluated_run(make_run, items=items, right=right_in_b, changes=of_b, **of_second)
    return TwoRuns(a, b)
