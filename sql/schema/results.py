"""What commands compute, and how their rows stand beside those of earlier commands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from lpp.sql.schema.columns import CONTEXT, N_PROMPTS, PREFIX, RUN, SITE, Column, Table
from lpp.sql.schema.drift import DRIFT_PREDICTIONS, DRIFT_TOKENS
from lpp.sql.schema.evaluations import ANALYSIS_KEY

FIRST_POSITION: Final = Column(
    "first_position", "INTEGER", "rows at earlier positions take no part", "tokens"
)

JACKKNIFE: Final = Table(
    "jackknife",
    "numbers of site_profiles again without each group of prompts: what a difference needs",
    (
        *("run", "site", "context", "n_prompts", "first_position", "metric", "prefix"),
        "prompt_group",
    ),
    (
        RUN,
        SITE,
        CONTEXT,
        N_PROMPTS,
        FIRST_POSITION,
        Column("metric", "VARCHAR", "column of site_profiles"),
        PREFIX,
        Column("prompt_group", "INTEGER", "the group of prompts left out, from 0"),
        Column("value", "DOUBLE", "the number without that group", "of the metric"),
        Column("student_t", "DOUBLE", "97.5 % quantile, groups - 1 degrees of freedom", "errors"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """How rows of a new command meet those that the database has of earlier ones.

    A new row takes the place of the old one of its key, but for numbers that only the old one
    has: a value that was not asked for, an error that was not computed.
    """

    replaced: tuple[str, ...] = ()
    """Key columns of what is replaced together, and whole: nothing of an old row is kept. Empty:
    the table's whole key, and a new row keeps what only the old one has."""
    beside: tuple[str, ...] = ()
    """What rows agree in that are compared with one another, in SQL: `different_prompts`."""
    covers: tuple[str, ...] = ()
    """Columns that count what a row is made of: one that is made of more stays."""


_BESIDE: Final = ("context", "n_prompts")

RESULTS: Final[Mapping[str, Merging]] = MappingProxyType(
    {
        "spectra": Merging(),
        "entropy": Merging(),
        "metrics": Merging(beside=_BESIDE),
        "site_profiles": Merging(beside=_BESIDE),
        "jackknife": Merging(replaced=JACKKNIFE.key[:-1]),
        "sensitivity": Merging(beside=("corpus", "site", *_BESIDE, "left_out IS NULL")),
        "agreement": Merging(covers=("n_models",)),
        "layers": Merging(beside=_BESIDE),
        "hourglass": Merging(covers=("n_layers", "n_collapsed", "n_missing")),
        "cka": Merging(beside=("prefix", "n_prompts")),
        "drift_predictions": Merging(replaced=DRIFT_PREDICTIONS.key),
        "drift_sites": Merging(),
        "drift_tokens": Merging(replaced=DRIFT_TOKENS.key),
        # q is over all features of an analysis: they are replaced together
        "item_analyses": Merging(replaced=ANALYSIS_KEY),
        "item_features": Merging(replaced=ANALYSIS_KEY),
        "item_reliability": Merging(replaced=ANALYSIS_KEY),
        "item_risk": Merging(replaced=ANALYSIS_KEY),
    }
)
"""Tables whose old rows stay, as long as their runs are as they were. `profiles` is made of
`site_profiles`: of each run and setting the deepest site."""


_NUMBERS: Final = ("DOUBLE", "INTEGER", "BIGINT")


class Number(NamedTuple):
    """A number of a table, and the columns that go with it."""

    value: str
    prefix: str | None
    """Where it came from."""
    errors: tuple[str, ...]
    """Its standard error first, then its interval; empty: the table has none."""


def numbers(table: Table) -> Iterator[Number]:
    """Every number that a row of `table` may lack while another row of its key has it.

    >>> [number.value for number in numbers(JACKKNIFE)]
    ['value', 'student_t']
    """
    types = {column.name: column.type for column in table.columns if column.name not in table.key}
    for name, kind in types.items():
        if kind in _NUMBERS and not name.endswith(("stderr", "ci_low", "ci_high", "prefix")):
            start = "" if name == "value" else f"{name}_"
            errors = tuple(f"{start}{end}" for end in ("stderr", "ci_low", "ci_high"))
            prefix = f"{start}prefix"
            yield Number(
                name,
                prefix if prefix in types else None,
                errors if errors[0] in types else (),
            )
