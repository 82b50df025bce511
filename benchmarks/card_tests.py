"""What the tests gave on a card, as a page: a plugin of pytest, which `make test-gpu` loads."""

import time
from typing import Any, Final

import pytest

from benchmarks import card_results
from benchmarks.marked import table
from lpp.capture.models.device import check_device
from lpp.store.errors import LppError
from lpp.store.units import duration

BEGAN: Final = time.monotonic()
OUTCOMES: Final = ("passed", "failed", "error", "skipped")


def pytest_configure() -> None:
    """End at once on a machine without the device: every test would be skipped."""
    try:
        check_device(card_results.DEVICE)
    except LppError as error:
        pytest.exit(str(error), 2)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write counts, seconds, names of the tests that failed and reasons of those skipped."""
    reports = {outcome: terminalreporter.stats.get(outcome, []) for outcome in OUTCOMES}
    counts = {outcome: len(found) for outcome, found in reports.items()}
    failed = [report.nodeid for report in (*reports["failed"], *reports["error"])]
    skipped = [str(report.longrepr[2]) for report in reports["skipped"]]
    reasons = sorted({reason.removeprefix("Skipped: ") for reason in skipped})
    seconds = round(time.monotonic() - BEGAN)
    card, folder = card_results.here(card_results.DEVICE)
    numbers = table((*OUTCOMES, "time"), [(*map(str, counts.values()), duration(seconds))])
    names = [*(f"- failed: {name}" for name in failed), *(f"- skipped: {why}" for why in reasons)]
    page = card_results.write(
        folder,
        card,
        "tests",
        {**counts, "seconds": seconds, "failures": failed, "reasons": reasons},
        "\n".join([numbers, "", *names]).rstrip(),
    )
    terminalreporter.write_line(card_results.next_step(page))
