"""What one capture did: the words at its end, and the report that a list of jobs reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpp.capture.parts import WHOLE, Part


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A capture that ended well, whole or in part."""

    run: str
    """Run id."""
    part: Part
    captured: int
    """Shards that this process committed."""
    outrun: int
    """Shards that it computed too, but another process committed first."""
    tokens: int
    """Of both."""
    seconds: float
    """From the first forward pass to the last commit; 0 where there was nothing to do."""
    missing: int
    """Shards of the run, of any part, that nobody has committed."""

    @property
    def idle(self) -> bool:
        """Whether everything asked for was there already."""
        return self.captured + self.outrun == 0

    def words(self, store: Path) -> str:
        """What a user is told: one to three sentences, a line each."""
        lines = []
        if self.outrun:
            lines.append(
                f"{self.outrun} of {self.captured + self.outrun} shards were committed by another "
                "process first, and kept.\nGive each process a --part of its own."
            )
        if self.missing:
            lines.append(
                f"Part {self.part} of {self.run} is done; {self.missing} shards of the run are "
                f"still\nmissing, which are other parts' work. See: lpp-capture status {store}"
            )
        else:
            lines.append(f"{self.run} is complete. Next: lpp-analyze profile {store}")
        return "\n".join(lines)

    def document(self) -> Mapping[str, Any]:
        """For `--report`: JSON of what was done."""
        return {
            "status": "skipped" if self.idle else "done",
            "run": self.run,
            "part": None if self.part == WHOLE else str(self.part),
            "captured_shards": self.captured,
            "outrun_shards": self.outrun,
            "missing_shards": self.missing,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }
