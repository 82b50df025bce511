"""Sources of scores without a record. Imports no reader: `lpp-sql` says this too."""

import shlex
from contextlib import suppress

from lpp.store.errors import LppError
from lpp.store.format.keys import BENCHMARKS_KEY, COMMIT_KEY, ORIGINAL_KEY
from lpp.store.objects.protocol import Objects


def lost_source_lines(root: Objects) -> list[str]:
    """One line for each source of a store that no reader finds: its record is lost, or its writer
    is at work or was killed. It says which command writes the record again.
    """
    lines = []
    with suppress(LppError, PermissionError):  # who reads the scores meets it
        below = root.below(BENCHMARKS_KEY)
        for name in (e.name for e in below.entries() if not e.name.startswith(".")):
            source = below.below(name)
            held = {entry.name for entry in source.entries()}
            if held and COMMIT_KEY not in held:
                lines.append(
                    f"{source.place}: left out, its record, {COMMIT_KEY}, is lost or not written "
                    "yet. Add the scores again: lpp-analyze benchmarks add "
                    f"{shlex.quote(str(root.place))} FILES; the files are in "
                    f"{source.place}/*/{ORIGINAL_KEY}."
                )
    return lines
