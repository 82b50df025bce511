"""What one capture did: the words at its end, and the report that a list of jobs reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lpp.capture.parts import WHOLE, Part

WIDTH: Final = 80


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
    stopped: bool = False
    """Whether a request to end left shards of the part uncommitted."""

    @property
    def idle(self) -> bool:
        """Whether everything asked for was there already."""
        return self.captured + self.outrun == 0

    def words(self, store: Path) -> str:
        """What a user is told, in lines of 80 columns where ids and paths allow."""
        lines = []
        if self.outrun:
            lines += [
                f"{self.outrun} of {self.captured + self.outrun} shards were committed by another "
                "process first, and kept.",
                "Give each process a --part of its own.",
            ]
        if self.stopped:
            lines += [
                f"{self.run}: stopped as asked, {self.missing} shards are missing.",
                "Everything committed stays; the same command resumes.",
            ]
        elif self.missing:
            done = f"{self.run}: part {self.part} is done."
            rest = f"Shards that are other parts' work and still missing: {self.missing}."
            lines += [done, rest, f"See: lpp-capture status {store}"]
        else:
            was = "was complete already" if self.idle else "is complete"
            done, following = f"{self.run} {was}.", f"Next: lpp-analyze profile {store}"
            fits = len(done) + 1 + len(following) <= WIDTH
            lines += [f"{done} {following}"] if fits else [done, following]
        return "\n".join(lines)

    def document(self) -> Mapping[str, Any]:
        """For `--report`: JSON of what was done."""
        done = "skipped" if self.idle else "done"
        return {
            "status": "interrupted" if self.stopped else done,
            "run": self.run,
            "part": None if self.part == WHOLE else str(self.part),
            "captured_shards": self.captured,
            "outrun_shards": self.outrun,
            "missing_shards": self.missing,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }
