"""The result of one capture: its last message, and its report as JSON."""

import contextlib
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from lpp.capture.plan.parts import WHOLE, Part
from lpp.store import open_store
from lpp.store.errors import LppError
from lpp.store.format.quarantine import NOTHING, QuarantineSummary
from lpp.store.objects.place import Place
from lpp.store.process.signals import EXIT_USER_ERROR
from lpp.store.runs.replay import Replay

_WIDTH: Final = 80

HOPELESS: Final = "Capture it with another --dtype: bfloat16 or float32 where it was float16."
"""Advice for a model without one finite prompt."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A capture that ended without an error, complete or not."""

    run: str
    """Run id."""
    part: Part
    captured: int = 0
    """Shards that this process committed."""
    lost_race: int = 0
    """Shards that this process also computed, but another process committed first."""
    tokens: int = 0
    """Tokens of the `captured` and `lost_race` shards."""
    seconds: float = 0.0
    """Seconds from the first forward pass to the last commit; 0 if there was nothing to do."""
    missing: int
    """Shards of the run, of any part, that are not committed."""
    stopped: bool = False
    """Whether a request to end left shards of the part uncommitted."""
    set_aside: QuarantineSummary = NOTHING
    """Prompts and texts that were set aside in the committed part of the run."""

    replay: Replay | None = None
    """How far the captured pass differs from generation; only for a complete run whose model
    wrote."""

    @property
    def idle(self) -> bool:
        """Whether every shard of the part was committed before."""
        return self.captured + self.lost_race == 0

    @property
    def hopeless(self) -> bool:
        """Whether every committed prompt was set aside as not finite."""
        return self.set_aside.hopeless and not self.missing

    @property
    def exit_code(self) -> int:
        """0 if the run can be analysed, 1 if it has no finite prompt, 2 if it was stopped."""
        return EXIT_USER_ERROR if self.stopped else int(self.hopeless)

    def message(self, store: Place) -> str:
        """For the user, in lines of 80 columns where ids and paths allow. Reads the names of the
        runs in `store`.
        """
        run = _name_and_id(store, self.run)
        lines = list(self.set_aside.lines())
        if self.hopeless:
            lines.append(HOPELESS)
        if self.replay is not None:
            lines += textwrap.wrap(f"replay: {self.replay}", _WIDTH, break_on_hyphens=False)
        if self.lost_race:
            lines += [
                f"{self.lost_race} of {self.captured + self.lost_race} shards were committed by "
                "another process first.",
                "Give each process a --part of its own.",
            ]
        if self.stopped:
            lines += [
                f"{run}: stopped as asked, {self.missing} shards are missing.",
                "Everything committed stays; the same command resumes.",
            ]
        elif self.missing:
            done = f"{run}: part {self.part} is done."
            rest = f"Shards of other parts that are still missing: {self.missing}."
            lines += [done, rest, f"See: lpp-capture status {store}"]
        else:
            was = "was complete already" if self.idle else "is complete"
            done, following = f"{run} {was}.", f"Next: lpp-analyze profile {store}"
            fits = len(done) + 1 + len(following) <= _WIDTH
            lines += [f"{done} {following}"] if fits else [done, following]
        return "\n".join(lines)

    def document(self) -> Mapping[str, Any]:
        """For `--report`: JSON of what was done."""
        done = "skipped" if self.idle else "done"
        if self.hopeless:
            done = "failed"
        reason = {"reason": f"no prompt is finite. {HOPELESS}"} if self.hopeless else {}
        written = {} if self.replay is None else {"replay": asdict(self.replay)}
        return (
            reason
            | written
            | {
                "status": "interrupted" if self.stopped else done,
                "run": self.run,
                "part": None if self.part == WHOLE else str(self.part),
                "captured_shards": self.captured,
                "lost_race_shards": self.lost_race,
                "missing_shards": self.missing,
                "set_aside_prompts": self.set_aside.prompts,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 3),
            }
        )


def _name_and_id(store: Place, run: str) -> str:
    """The name of a run with its id in brackets; the id if the name is unknown."""
    names: Mapping[str, str] = {}
    with contextlib.suppress(LppError, OSError):  # the capture itself is done
        names = open_store(store).names
    return f"{names[run]} ({run})" if run in names else run
