"""Four questions about the packaged store, and the beginning of each answer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from lpp.analyze.engine.executor import LOCAL
from lpp.analyze.evaluations.answers import diff_answer, items_answer
from lpp.analyze.pages.terminal import in_brief
from lpp.analyze.probes.answer import probe_answer
from lpp.analyze.questions import (
    DiffSettings,
    GateSettings,
    ItemsSettings,
    LabelProbeSettings,
    ProfileSettings,
)
from lpp.analyze.studies.answers import profile_answer
from lpp.store.progress import SILENT

if TYPE_CHECKING:
    from lpp.analyze.pages.reply import Reply

AS_IT_IS: Final = "*Q4_1"
"""Pattern of the run of the model as it is."""

ROUNDED: Final = "rounded*"
TASK: Final = "pydoc_cloze"


class FirstAnswer(NamedTuple):
    """A question, and what is seen first of its answer."""

    question: str
    command: tuple[str, ...]
    """The command that shows the whole answer."""
    answer: str


def first_answers(store: Path) -> Iterator[FirstAnswer]:
    """The questions in order, each with its answer; numbers are kept in the store's database."""
    url = str(store)
    runs = (AS_IT_IS, ROUNDED)
    questions: tuple[tuple[str, tuple[str, ...], Callable[[], Reply]], ...] = (
        (
            "What does the model use?",
            ("profile", url),
            lambda: profile_answer(url, ProfileSettings(), True, SILENT, LOCAL),
        ),
        (
            "What did rounding to 4 bits change?",
            ("diff", url, *runs),
            lambda: diff_answer(
                url, runs, None, DiffSettings(), GateSettings(), progress=SILENT, executor=LOCAL
            ),
        ),
        (
            "Do hidden states show the topic of a sentence better than its words do?",
            ("probe", url, AS_IT_IS, "--label", "topic", "--group", "article"),
            lambda: probe_answer(
                url, "topic", AS_IT_IS, LabelProbeSettings(group="article"), progress=SILENT
            ),
        ),
        (
            "Which answers are wrong, and what is different about them?",
            ("items", url, "--task", TASK),
            lambda: items_answer(url, TASK, None, ItemsSettings(), progress=SILENT),
        ),
    )
    for question, words, ask in questions:
        yield FirstAnswer(question, ("lpp-analyze", *words), in_brief(ask().page))
