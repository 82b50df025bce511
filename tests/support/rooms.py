"""Lines of each room of the packages. `tests/rooms.toml` says how many a room may have.

python tests/support/rooms.py         fail if a room has more
python tests/support/rooms.py lower   lower the numbers to what is there, raise none
python tests/support/rooms.py FOLDER  print lines by room beside those of another checkout
"""

import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
LIMITS: Final = ROOT / "tests" / "rooms.toml"
PACKAGES: Final = ("store", "sql", "capture", "analyze")


def lines_by_room(root: Path) -> Counter[str]:
    """Lines of the Python files of each folder of the packages, such as `store/format`."""
    found: Counter[str] = Counter()
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            room = path.parent.relative_to(root).as_posix()
            found[room] += len(path.read_text("utf-8").splitlines())
    return found


def limits() -> dict[str, int]:
    """Most lines of each room."""
    return dict(tomllib.loads(LIMITS.read_text("utf-8")))


def exceeded() -> list[str]:
    """Rooms that have more lines than rooms.toml says, or no number there."""
    most = limits()
    return [
        f"{room} has {lines} lines, and tests/rooms.toml allows {most.get(room, 0)}"
        for room, lines in sorted(lines_by_room(ROOT).items())
        if lines > most.get(room, 0)
    ]


def lower() -> None:
    """Lower every number of rooms.toml to the lines that are there; drop rooms that are gone."""
    now = lines_by_room(ROOT)
    lowered = {room: min(most, now[room]) for room, most in limits().items() if room in now}
    head = (
        "# Most lines of each room. Raise one by hand, where others read it; `make rooms` lowers.\n"
    )
    rows = "".join(f'"{room}" = {most}\n' for room, most in sorted(lowered.items()))
    LIMITS.write_text(head + rows, "utf-8")


def beside(other: Path) -> str:
    """Rooms whose lines differ from those of another checkout, and the sum of all."""
    before, now = lines_by_room(other), lines_by_room(ROOT)
    rows = [room for room in sorted(before | now) if before[room] != now[room]]
    counts = [(room, before[room], now[room]) for room in rows]
    counts.append(("all", before.total(), now.total()))
    return "\n".join(f"{room:32} {was:6} {is_:6} {is_ - was:+6}" for room, was, is_ in counts)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("\n".join(exceeded()) or 0)
    elif sys.argv[1] == "lower":
        lower()
    else:
        print(beside(Path(sys.argv[1])))
