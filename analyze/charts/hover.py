"""Pointing at a mark: a tooltip with its values, and the other runs dimmed.

Tooltips have readable titles and four digits. The dimming is a selection of Vega-Lite, by a run's
line, its points or its entry in the legend. The panels of one chart share it; in a report,
page.js gives it to every chart of the page. In a picture nothing is selected, so nothing is dim.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from lpp.analyze.charts.library import alt
from lpp.analyze.charts.rows import Row, number, plain

DIM: Final = 0.12
"""Opacity of the runs that are not pointed at."""

_LEGEND: Any = alt.LegendStreamBinding(legend="pointerover")
HOVER: Final = alt.selection_point(
    name="pointed", fields=["label"], on="pointerover", clear="pointerout", bind=_LEGEND
)
"""The rows with the same `label` as the mark that is pointed at."""

NONE: Final = "none"
"""Shown for a missing value."""

TITLES: Final = {
    "label": "run",
    "minus": "minus",
    "model": "model",
    "profile_metric": "number of the profile",
    "positions": "positions",
    "site": "site",
    "told": "value",
    "interval": "95 % interval",
    "flags": "flags",
    "prefix": "prefix (tokens)",
    "rank": "rank of the eigenvalue",
    "eigenvalue": "eigenvalue",
    "step": "step of the training",
    "first": "positions from",
    "end": "positions below",
    "kl_from": "KL from (nats)",
    "kl_below": "KL below (nats)",
    "deviation": "from the fullest setting",
    "corpus": "corpus",
    "context": "context (tokens)",
    "n_prompts": "prompts",
    "n_tokens": "tokens",
    "n": "items",
    "n_models": "models",
    "q_value": "q",
    "p_value": "p",
    "benchmark": "benchmark",
    "benchmark_metric": "metric",
    "source": "source",
    "confidence": "mean share",
    "accuracy": "right (share)",
    "coverage": "answered (share)",
    "n_answered": "answered (items)",
    "risk": "wrong (share)",
    "shuffled": "shuffled labels",
    "citation": "citation",
}
"""Titles of fields, in the order in which a tooltip shows them."""


def opacity(usual: float = 1.0) -> Any:
    """`usual`, or less for runs that are not pointed at while another one is."""
    return alt.when(HOVER).then(alt.value(usual)).otherwise(alt.value(DIM * usual))


def with_tips(
    values: Sequence[Row], titles: Mapping[str, str], *, but: Collection[str] = ()
) -> tuple[list[Row], list[Any]]:
    """Rows with a text for every field of `TITLES`, and the tooltips that show them.

    titles: replace those of `TITLES`; the field `told`, of the function `told`, needs one. but:
    fields to leave out. A field that no row has is not shown; a missing value is `none`.
    """
    found = [dict(row) for row in values]
    shown = [
        _shown(found, field, title)
        for field, title in {**TITLES, **titles}.items()
        if field not in but and any(row.get(field) not in (None, "") for row in found)
    ]
    return found, shown


def _shown(found: Sequence[Row], field: str, title: str) -> Any:
    own = [row.get(field) for row in found]
    if all(isinstance(one, int | float) for one in own):
        form = ",d" if all(isinstance(one, int) for one in own) else ".4~g"
        return alt.Tooltip(f"{field}:Q", title=title, format=form)
    for row, one in zip(found, own, strict=True):
        row[field] = NONE if one in (None, "") else number(one) if isinstance(one, float) else one
    return alt.Tooltip(f"{field}:N", title=title)


def field_of(tip: Any) -> str:
    """The field that a tooltip of `with_tips` shows."""
    field: str = tip.shorthand.partition(":")[0]
    return field


def told(value: float | None, stderr: float | None = None) -> str:
    """A value with its standard error.

    >>> told(20.125, 0.25), told(3.0), told(None)
    ('20.12 ± 0.25', '3', 'no value')
    """
    error = f" ± {stderr:.2g}" if stderr is not None else ""
    return f"{number(value)}{error}"


def interval(low: float | None, high: float | None) -> str | None:
    """The ends of an interval; None where there is none.

    >>> interval(19.625, 20.875), interval(None, 2.0)
    ('19.62 to 20.88', None)
    """
    low, high = plain(low), plain(high)
    return None if low is None or high is None else f"{number(low)} to {number(high)}"
