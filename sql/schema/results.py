"""Tables that commands compute, and how new rows are merged with those of earlier commands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from lpp.sql.schema.columns import CLUSTER, CONTEXT, N_PROMPTS, PREFIX, RUN, SITE, Column, Table
from lpp.sql.schema.drift import DRIFT_PREDICTIONS, DRIFT_TOKENS
from lpp.sql.schema.evaluations import ANALYSIS_KEY

FIRST_POSITION: Final = Column(
    "first_position", "INTEGER", "rows at earlier positions are left out", "tokens"
)

JACKKNIFE: Final = Table(
    "jackknife",
    "numbers of site_profiles without one group of prompts: for errors of differences",
    "lpp-analyze profile STORE",
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
        CLUSTER,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """How rows of a new command are merged with those of earlier commands in the database.

    A new row replaces the old row of the same key, but keeps numbers that only the old row has:
    a value that was not requested this time, an error that was not computed.
    """

    replaced: tuple[str, ...] = ()
    """Key columns: all old rows that agree in them are replaced, and nothing of them is kept.
    Empty: the table's whole key, and a new row keeps the numbers that only the old row has."""
    beside: tuple[str, ...] = ()
    """SQL expressions that are equal for rows that are compared: for `different_prompts`."""
    covers: tuple[str, ...] = ()
    """Columns that count what a row is made of: an old row that is made of more is kept."""
    of_items: bool = False
    """Whether rows are made of the items of an evaluation: they stay while those are unchanged."""


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
        # q corrects over all features of an analysis, so they are replaced together
        "item_analyses": Merging(replaced=ANALYSIS_KEY, of_items=True),
        "item_features": Merging(replaced=ANALYSIS_KEY, of_items=True),
        "item_reliability": Merging(replaced=ANALYSIS_KEY, of_items=True),
        "item_risk": Merging(replaced=ANALYSIS_KEY, of_items=True),
    }
)
"""Tables whose old rows stay as long as their runs and items are unchanged. `profiles` is made from
`site_profiles`: the deepest site of each run and setting."""


_NUMBERS: Final = ("DOUBLE", "INTEGER", "BIGINT")


class Number(NamedTuple):
    """A number of a table, and the columns that go with it."""

    value: str
    prefix: str | None
    """Column with the prefix that it came from; None: the table has none."""
    errors: tuple[str, ...]
    """Columns of its standard error and interval; empty: the table has none."""


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
