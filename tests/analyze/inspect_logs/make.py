"""Makes the logs of this folder: two tasks of inspect_ai, a model that says what it is told to.

pip install inspect_ai==0.3.285
python tests/analyze/inspect_logs/make.py
"""

from pathlib import Path
from typing import Any

import inspect_ai.model._model as counting
from inspect_ai import Task, eval, task  # noqa: A004
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, ModelOutput, get_model
from inspect_ai.scorer import choice, match
from inspect_ai.solver import generate, multiple_choice, system_message

PLANETS = [
    ("largest", "Which planet is the largest?", ["Jupiter", "Mars", "Venus"], "A", "easy"),
    ("fastest", "Which year is the shortest?", ["Earth", "Mercury", "Uranus"], "B", "easy"),
    ("tilted", "Which planet lies on its side?", ["Venus", "Saturn", "Uranus"], "C", "hard"),
]
SUMS = [("1 + 2 =", "3"), ("2 + 2 =", "4")]


@task  # type: ignore[untyped-decorator]
def planets() -> Task:
    """Three questions with three answers each."""
    return Task(
        dataset=MemoryDataset(
            [
                Sample(
                    id=name, input=asked, choices=choices, target=gold, metadata={"level": level}
                )
                for name, asked, choices, gold, level in PLANETS
            ]
        ),
        solver=multiple_choice(template="{question}\n{choices}\n{letters}?"),
        scorer=choice(),
    )


@task  # type: ignore[untyped-decorator]
def sums() -> Task:
    """Two sums, scored in two ways."""
    return Task(
        dataset=MemoryDataset([Sample(input=asked, target=gold) for asked, gold in SUMS]),
        solver=[system_message("Be brief."), generate()],
        scorer=[match(), match(location="any")],
        config=GenerateConfig(temperature=0.0),
    )


def saying(*answers: str) -> Any:
    """A model that gives `answers`, one after the other."""
    left = list(answers)

    def answer(*_: Any) -> ModelOutput:
        if not left:
            raise RuntimeError("the model stopped")
        return ModelOutput.from_content("org/One", left.pop(0))

    return get_model("mockllm/org/One", custom_outputs=answer, memoize=False)


def write(name: str, made: Task, *answers: str, **options: Any) -> None:
    """Evaluate `made` and put its log at `name`."""
    here = Path(__file__).parent
    (log,) = eval(
        made,
        model=saying(*answers),
        log_format=name.rpartition(".")[2],
        log_dir=str(here),
        display="none",
        max_samples=1,
        **options,
    )
    Path(log.location.removeprefix("file://")).rename(here / name)


if __name__ == "__main__":
    counting.count_text_tokens = len  # the real one downloads a vocabulary
    letters = ("ANSWER: A", "ANSWER: C", "ANSWER: C")
    write("planets.eval", planets(), *letters)
    write("planets.json", planets(), *letters)
    write("sums.eval", sums(), "3", "It is 4, not 5")
    write("epochs.eval", planets(), *letters, *("ANSWER: B",) * 3, epochs=2)
    write("stopped.eval", planets(), letters[0])
