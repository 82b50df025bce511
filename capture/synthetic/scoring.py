"""How answers to the probes are scored.

Answers are scored by strict parsing and by the likelihood of whole lines. `score_*` are what
lm-eval calls for each item (`process_results` of a task): they return the values whose means are
the scores. An item gives a score only where it counts for it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LINES: Final = tuple(
    f"ambiguous_status={status}; answer={answer}"
    for status in ("AMBIGUOUS", "NOT_AMBIGUOUS")
    for answer in "AB"
)
"""Everything that an answer may be: the line format of arXiv 2605.30018, to the letter."""

_LINE: Final = re.compile(r"ambiguous_status=(AMBIGUOUS|NOT_AMBIGUOUS); answer=(A|B)")


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """A model's answer to an item."""

    ambiguous: bool
    answer: str


def parse_line(response: str) -> ProbeVerdict | None:
    """The answer in a response; None unless it is one line in the format, spaces aside.

    The published script searches for anything like an answer and asks again where it finds none:
    the score then depends on the search.

    >>> parse_line(" ambiguous_status=AMBIGUOUS; answer=A")
    ProbeVerdict(ambiguous=True, answer='A')
    >>> parse_line("The answer is (A).") is None
    True
    """
    match = _LINE.fullmatch(response.strip())
    return ProbeVerdict(match[1] == "AMBIGUOUS", match[2]) if match else None


def likeliest(log_likelihoods: Sequence[float]) -> ProbeVerdict:
    """The status and the answer with the larger probability, each summed over the other.

    log_likelihoods: (4,) of `LINES`, nats, each of the whole line, so no length is corrected for. A
    tie is for AMBIGUOUS, and for A: a model without a preference scores one half.
    """
    top = max(log_likelihoods)
    p = [math.exp(value - top) for value in log_likelihoods]  # of the lines, up to a factor
    return ProbeVerdict(
        ambiguous=p[0] + p[1] >= p[2] + p[3], answer="A" if p[0] + p[2] >= p[1] + p[3] else "B"
    )


def ambiguous_scores(item: Mapping[str, Any], verdict: ProbeVerdict | None) -> dict[str, float]:
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
