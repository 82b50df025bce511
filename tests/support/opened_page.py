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
        for plot in self.page.locator("[data-chart]").all():
            plot.scroll_into_view_if_needed()
        self.page.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every(e => 'drawn' in e.dataset)"
        )


OpenPage = Callable[..., Opened]
"""Type of the fixture `open_page`."""
