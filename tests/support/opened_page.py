"""A page that a test has opened in a browser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Opened:
    """A page and its errors."""

    page: Any
    trouble: list[str] = field(default_factory=list)

    def draw_all(self) -> None:
        """Open every chart and scroll through the page until all are drawn."""
        folded = "details:has([data-chart])"
        self.page.locator(folded).evaluate_all("es => es.forEach((e) => { e.open = true; })")
        for index, plot in enumerate(self.page.locator("[data-chart]").all()):
            # not scroll_into_view_if_needed: it waits until no chart above grows any more
            plot.evaluate("e => e.scrollIntoView({ block: 'center' })")
            self.page.wait_for_function(
                "n => 'drawn' in document.querySelectorAll('[data-chart]')[n].dataset", arg=index
            )


OpenPage = Callable[..., Opened]
"""Type of the fixture `open_page`."""
