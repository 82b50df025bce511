"""What scores are counted in. Nothing heavy is imported: `--help` reads it."""

from typing import Final, Literal, TypeAlias, get_args

Unit: TypeAlias = Literal["auto", "percent", "fraction", "other"]
"""`auto` refuses a benchmark that holds both, `other` checks none."""

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
