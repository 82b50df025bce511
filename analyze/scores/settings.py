"""What a user asks of scores, each setting declared once: here, for the library and the commands.

A field's metadata is its option of `lpp-analyze correlate`. Nothing heavy is imported: `--help`
reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

Unit: TypeAlias = Literal["auto", "percent", "fraction", "other"]
"""What scores are counted in: `auto` refuses a benchmark that holds both, `other` checks none."""

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)

DEFAULT_METRICS: Final = (
    "entropy_floor",
    "participation_ratio",
    "participation_ratio_norm",
    "effective_rank",
    "effective_rank_norm",
)
"""The three of the paper; ranks in dimensions and over min(N, d), which say different things."""


def _setting(default: Any, option: str, text: str, **more: str) -> Any:
    return field(default=default, metadata={"option": option, "help": text, **more})


def _patterns(option: str, text: str, **more: str) -> Any:
    text = f"{text}; a name may be a pattern. Default: every one."
    return _setting(("*",), option, text, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is correlated with what."""

    metrics: Sequence[str] = _setting(
        DEFAULT_METRICS, "--metric", "Correlate only these profile columns, such as entropy_floor."
    )
    benchmarks: Sequence[str] = _patterns(
        "--benchmark", "Correlate with these benchmarks", metavar="NAME[:METRIC],..."
    )
    sources: Sequence[str] = _patterns("--source", "Use the scores of these sources")
    runs: Sequence[str] = ("*",)
    """Ids, short names, or patterns of them: the option `--run` of every command."""
    corpora: Sequence[str] = _patterns("--corpus", "Use runs on these corpora")
    context: int | None = _setting(
        None, "--context", "Use profiles at this context. Default: the one that most runs have."
    )
    prompts: int | None = _setting(
        None,
        "--prompts",
        "Use profiles of the first N prompts. Default: the number that most runs have.",
    )
    site: str = _setting("final", "--site", "Use profiles at this site.")
    untrained: bool = _setting(False, "--untrained", "Include untrained twins.")
    with_published: bool = _setting(
        False, "--with-published", "Include the eight models that the paper published."
    )
    seed: int = _setting(0, "--seed", "Draw the bootstrap samples from this seed.")
