"""The state of a store as text, within 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

from lpp.capture.engine.status import RunStatus
from lpp.store.heartbeat import Writer

DAY, HOUR, MINUTE = 86400, 3600, 60


def status_table(statuses: Sequence[RunStatus], now: float) -> str:
    """Three lines and more for each run: its id, how far it is, and who works on it."""
    columns = "  {:<11}{:>11}{:>15}{:>9}{:>10}{:>10}{:>12}"
    head = columns.format("", "shards", "prompts", "tokens", "on disk", "tokens/s", "left")
    lines = [head]
    for status in statuses:
        lines.append(status.run)
        rate = status.tokens_per_second
        lines.append(
            columns.format(
                status.state,
                f"{status.shards_done}/{status.shards}",
                f"{status.prompts_done}/{status.prompts}",
                short_count(status.tokens_done),
                short_bytes(status.bytes),
                "-" if rate is None else short_count(round(rate)),
                "-" if status.seconds_left is None else duration(status.seconds_left),
            )
        )
        for line in _details(status, now):
            lines += textwrap.wrap(line, 80, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _details(status: RunStatus, now: float) -> Iterator[str]:
    """What the numbers of a run do not say."""
    if status.problem:
        yield status.problem
    yield from status.set_aside.lines()
    for writer in status.writers:
        yield _writer(writer, now)
    if status.state == "stopped":
        last = status.last_commit
        when = "no shard yet" if last is None else f"last shard {duration(now - last)} ago"
        yield f"nobody works on it, {when}; the command that made it resumes it"
    elif status.nobodys:
        yield f"{status.nobodys} of the missing shards are no living writer's part"
    if status.damaged:
        some = ", ".join(status.damaged[:4]) + (", ..." if len(status.damaged) > 4 else "")
        yield f"damaged: shards {some}; lpp-capture repair computes them again"


def _writer(writer: Writer, now: float) -> str:
    who = f"pid {writer.pid} on {'this machine' if writer.here else writer.host}"
    if writer.doing:
        who = f"{writer.doing}: {who}"
    if writer.ended:
        return f"{who} ended without finishing"
    if not writer.alive(now):
        return f"{who}, no sign for {duration(now - writer.last_sign)}: killed, or cut off"
    since = "" if writer.since is None else f", for {duration(now - writer.since)}"
    return f"{who}{since}"


def duration(seconds: float) -> str:
    """Two units at most.

    >>> [duration(s) for s in (0.4, 75, 3700, 180000)]
    ['0 s', '1 min 15 s', '1 h 1 min', '2 d 2 h']
    """
    whole = max(0, round(seconds))
    for unit, name, smaller, small in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small}"
    return f"{whole} s"


def short_count(count: int) -> str:
    """Three digits and a letter.

    >>> [short_count(n) for n in (950, 24000, 1_234_567, 115_600_000_000)]
    ['950', '24.0k', '1.23M', '116G']
    """
    value, letter = float(count), ""
    for letter in ("", "k", "M", "G", "T"):  # noqa: B007
        if value < 999.5:
            break
        value /= 1000
    return f"{value:.3g}" if not letter else f"{value:#.3g}".rstrip(".") + letter


def short_bytes(count: int) -> str:
    """The same in bytes.

    >>> short_bytes(1_234_567_890)
    '1.23 GB'
    """
    text = short_count(count)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"
