"""Arguments that rows and prompts share."""

import re
from collections.abc import Sequence

from lpp.store.arrays.reader import ReadAs
from lpp.store.errors import ErrorKind, InputError
from lpp.store.feed.epoch import LEAST_SPANS
from lpp.store.feed.reader import OnDamage
from lpp.store.feed.spans import Spans
from lpp.store.format.keys import SHARDS_KEY, shard_key
from lpp.store.runs.read import Run
from lpp.store.settings.arguments import check_whole, check_word
from lpp.store.units import counted, short_bytes


def check_feed(
    runs: Sequence[Run],
    sites: tuple[str, ...],
    dtype: ReadAs,
    *,
    on_damage: OnDamage = "raise",
    paired: bool = True,
) -> None:
    """Raise InputError for runs that cannot be fed, and for arguments that do not fit together.

    paired: whether rows of several runs belong to the same tokens.
    """
    check_word("on_damage", on_damage, OnDamage)
    problem = ""
    if not runs or not sites:
        problem = "give at least one run and one site"
    elif paired and len(runs) > 1 and len(sites) > 1:
        problem = "several runs and several sites: give one run or one site"
    elif paired and len({run.plan.prompts.sha256 for run in runs}) > 1:
        problem = (
            f"{' and '.join(run.id for run in runs)} hold other prompts, so rows do not pair; "
            "weights=[...] mixes them"
        )
    elif other := [s for s in sites if len({run.site(s).width for run in runs}) > 1]:
        problem = f"{other[0]} has other widths in {' and '.join(run.id for run in runs)}"
    elif dtype == "stored" and (mixed := [s for s in sites if len(_dtypes(runs, s)) > 1]):
        problem = (
            f"{mixed[0]} is stored as {' and '.join(sorted(_dtypes(runs, mixed[0])))}: give "
            "dtype='float32'"
        )
    if problem:
        raise InputError(f"{problem}.")
    for run in runs:
        for site in sites:
            run.require_rows(site, dtype)
        if on_damage == "raise":
            _check_whole(run)


def _dtypes(runs: Sequence[Run], site: str) -> set[str]:
    """What rows of `site` are read as."""
    return {run.plan.dtype_read(run.site(site)) for run in runs}


def _check_whole(run: Run) -> None:
    """Raise InputError if shards are missing, as far as a listing of their names tells."""
    present = {entry.name for entry in run.directory.entries(SHARDS_KEY)}
    missing = [k for k in range(run.plan.n_shards) if shard_key(k) not in present]
    if missing:
        raise InputError(
            f"run {run.id}: {counted(len(missing), 'shard')} of {run.plan.n_shards:,} not "
            f"committed, the first {missing[0]}. Repeat the `lpp-capture run` command that made "
            "it. A feed with on_damage='skip' goes on without them.",
            kind=ErrorKind.INCOMPLETE,
        )


def check_numbers(*, seed: int, epochs: int | None, rank: int, world: int) -> None:
    """InputError for numbers out of range."""
    check_whole("seed", seed, most=2**63 - 1)
    if epochs is not None:
        check_whole("epochs", epochs, least=1)
    check_whole("world", world, least=1)
    check_whole("rank", rank, most=world - 1)


def check_left(runs: Sequence[Run], where: str | None, count: int, each: int, what: str) -> None:
    """InputError for a feed that would give nothing. count: what is fed, of which each rank needs
    `each`.
    """
    if count < each:
        names = " and ".join(run.id for run in runs)
        of = "" if where is None else f" with where={where!r}"
        raise InputError(
            f"{names}{of}: {counted(count, what)} left to feed, and {each:,} are needed for a "
            "batch of each rank. Change where, batch or world."
        )


def buffer_rows(memory: int, row_bytes: int, spans: Spans) -> int:
    """Rows that a buffer holds. InputError if it holds too few spans of them."""
    capacity, least = memory // row_bytes, LEAST_SPANS * spans.longest
    if capacity < least:
        raise InputError(
            f"a buffer of {short_bytes(memory)} holds {capacity:,} rows; it must hold {least:,}, "
            f"{LEAST_SPANS} times what is read at a time. Give buffer={least * row_bytes} or more."
        )
    return capacity


def buffer_bytes(size: int | str) -> int:
    """Bytes of a size such as "2 GiB"."""
    if not isinstance(size, str):
        return check_whole("buffer", size, least=1, most=2**63 - 1)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?)?B?\s*", size)
    if match is None:
        raise InputError(
            f"buffer={size!r} is no size. Such as: buffer='2 GiB', or a number of bytes."
        )
    number, unit = match.groups()
    base = 1024 if unit and unit.endswith("i") else 1000
    return int(float(number) * base ** " KMGT".index(unit[0] if unit else " "))
