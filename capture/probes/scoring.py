"""How answers to the probes are scored, and how far a score may be off.

Answers are scored by strict parsing and by the likelihood of whole lines. `score_*` are what
lm-eval calls for each item (`process_results` of a task): they return the values whose means are
the scores. An item gives a score only where it counts for it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lpp.capture.probes.items import Probe

STATUS: Final = {True: "AMBIGUOUS", False: "NOT_AMBIGUOUS"}

LINES: Final = tuple(
    f"ambiguous_status={status}; answer={answer}" for status in STATUS.values() for answer in "AB"
)
"""Everything that an answer may be: the line format of arXiv 2605.30018, to the letter."""

_LINE: Final = re.compile(r"ambiguous_status=(AMBIGUOUS|NOT_AMBIGUOUS); answer=(A|B)")


Z95: Final = 1.959964
"""Standard normal quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """One score of a model on one task."""

    task: str
    metric: str
    """Metric and filter, as lm-eval writes them: `answer_acc,none`."""
    value: float
    stderr: float | None
    n: int
    """Items that count for it."""
    clusters: int
    """Scenes, or single items, that count for it."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return interval(self.value, self.stderr, self.clusters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Scores of one model on one probe."""

    probe: Probe
    scores: tuple[ProbeScore, ...]
    file: str
    """Name of lm-eval's result file, in a folder named after the model."""
    document: bytes
    """Content of that file."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model's answer to an item."""

    ambiguous: bool
    answer: str


def line_of(verdict: Verdict) -> str:
    """The answer as a line.

    >>> line_of(Verdict(ambiguous=False, answer="B"))
    'ambiguous_status=NOT_AMBIGUOUS; answer=B'
    """
    return f"ambiguous_status={STATUS[verdict.ambiguous]}; answer={verdict.answer}"


def parse_line(response: str) -> Verdict | None:
    """The answer in a response; None unless it is one line in the format, spaces aside.

    The published script searches for anything like an answer and asks again where it finds none:
    the score then depends on the search.

    >>> parse_line(" ambiguous_status=AMBIGUOUS; answer=A")
    Verdict(ambiguous=True, answer='A')
    >>> parse_line("The answer is (A).") is None
    True
    """
    found = _LINE.fullmatch(response.strip())
    return Verdict(found[1] == STATUS[True], found[2]) if found else None


def likeliest(log_likelihoods: Sequence[float]) -> Verdict:
    """The status and the answer with the larger probability, each summed over the other.

    log_likelihoods: (4,) of `LINES`, nats, each of the whole line, so no length is corrected for. A
    tie is for AMBIGUOUS, and for A: a model without a preference scores one half.
    """
    top = max(log_likelihoods)
    p = [math.exp(value - top) for value in log_likelihoods]  # of the lines, up to a factor
    return Verdict(
        ambiguous=p[0] + p[1] >= p[2] + p[3], answer="A" if p[0] + p[2] >= p[1] + p[3] else "B"
    )


def ambiguous_scores(item: Mapping[str, Any], verdict: Verdict | None) -> dict[str, float]:
    """The scores that one item counts for; a verdict of None counts as wrong everywhere.

    answer_acc: ambiguous prefixes alone, where nothing but the hint helps; the paper's score.
    """
    ambiguous: bool = item["ambiguous"]
    answered = verdict is not None and verdict.answer == item["answer"]
    judged = verdict is not None and verdict.ambiguous == ambiguous
    called = None if verdict is None else verdict.ambiguous
    scores = {
        "answer_acc" if ambiguous else "answer_acc_plain": float(answered),
        "ambiguity_acc": float(judged),
        "joint_acc": float(answered and judged),
        "combined": (answered + judged) / 2,
    }
    if ambiguous:
        scores["overconfidence"] = float(called is False)
    else:
        scores["underconfidence"] = float(called is True)
    return scores


def char_f1(response: str, target: str) -> float:
    """F1 of the characters as multisets, whatever their order, as in the paper's script.

    >>> char_f1("BAA", "AAB"), char_f1("AAAA", "AAB"), char_f1("", "AAB")
    (1.0, 0.5714285714285714, 0.0)
    """
    shared = (Counter(response) & Counter(target)).total()
    return 2 * shared / (len(response) + len(target)) if shared else 0.0


def score_ambiguous_generate(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results` of lpp_ar_generate. results: the response."""
    verdict = parse_line(results[0])
    return {**ambiguous_scores(doc, verdict), "parsed": float(verdict is not None)}


def score_ambiguous_options(
    doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """`process_results` of lpp_ar_options. results: (log-likelihood, is greedy) of each line."""
    return ambiguous_scores(doc, likeliest([value for value, _ in results]))


def score_pattern(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results` of lpp_spc. results: the response, scored without any search in it.

    parsed: the right number of symbols, without a space between them.
    """
    response, target = results[0].strip(), doc["target"]
    well_formed = len(response) == len(target) and not re.search(r"\s", response)
    return {
        "exact_match": float(response == target),
        "char_f1": char_f1(response, target),
        "parsed": float(well_formed),
    }


def standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean; None for a single cluster.

    values: (n,) one per item. clusters: (n,) which items belong together, such as those of one
    scene. The larger of two: with items taken as independent, and with only clusters taken so
    (Cameron and Miller 2015, section 2). Items that balance each other by design lower the second.
    """
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    if len(sums) < 2:
        return None
    by_item = _spread([value - mean for value in values])
    return max(by_item, _spread(list(sums.values()))) / len(values)


def _spread(residuals: Sequence[float]) -> float:
    n = len(residuals)
    return math.sqrt(n / (n - 1) * sum(r * r for r in residuals))


def interval(score: float, stderr: float | None, clusters: int) -> tuple[float, float]:
    """95 % interval of a score between 0 and 1, itself between 0 and 1.

    Wilson's interval (1927) for as many independent items as would have this standard error, as in
    surveys (Korn and Graubard 1998); for `clusters` items where it is 0 or unknown, so that ten
    right answers of ten do not pass for certainty.

    >>> [round(end, 3) for end in interval(1.0, 0.0, 10)]
    [0.722, 1.0]
    """
    variance = score * (1 - score)
    n = max(1.0, variance / stderr**2) if stderr and variance else clusters
    scale = 1 + Z95**2 / n
    centre = (score + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(variance / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
