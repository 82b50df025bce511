"""Which features separate items of one kind from others, and which beat the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from lpp.analyze.numerics.statistics.association import benjamini_hochberg
from lpp.analyze.pages.words import hundredths, ref, with_interval

Q: Final = 0.1
"""Expected share of false findings among the features that are said to separate the items."""

FEATURES: Final = "item-features"
SITES: Final = "item-sites"
"""Tables of a page with features of items, and with features of rows at each site."""

Row = Mapping[str, Any]


Q_READING: Final = "q: p-value corrected for the number of features (Benjamini and Hochberg)."
"""Says on a line what the q of a feature is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The joint result of an analysis's features; every row is one of its table."""

    within: bool
    """Whether numbers are within groups."""
    tested: tuple[Row, ...]
    """Features of predictions, rows and drift that have an AUROC."""
    telling: tuple[Row, ...]
    """Those of `tested` with q below `Q`."""
    baseline: Row | None
    """The baseline whose AUROC is farthest from 0.5; None if no baseline varies."""
    beyond: tuple[Row, ...]
    """Those of `telling` that tell more than `baseline`: a gain above 0, and q of its p below `Q`
    over `tested`. All of `telling` without a baseline."""
    best: Row | None
    """The feature of `beyond`, or else of `telling`, whose AUROC is farthest from 0.5."""

    @property
    def kind(self) -> str:
        """Prefix of the columns with its numbers."""
        return "within_" if self.within else ""

    def number(self, row: Row) -> tuple[float, float | None, float | None]:
        """AUROC of a row, and the ends of its interval; None if it has no interval."""
        return row[f"{self.kind}auroc"], row[f"{self.kind}ci_low"], row[f"{self.kind}ci_high"]

    def best_feature(self, does: str) -> str:
        """A text of `say`: `best`, its AUROC, and whether it is significantly better than the best
        baseline, with the interval of the paired difference; empty without a best feature.

        does: such as "separates right from wrong answers best".
        """
        if self.best is None:
            return ""
        value = ref(
            with_interval(*self.number(self.best)), SITES if self.best["site"] else FEATURES
        )
        words = f"{named(self.best)} {does} (AUROC {value})"
        if self.baseline is None:
            return f"{words}."
        gain, low, high = (self.best[f"gain{end}"] for end in ("", "_ci_low", "_ci_high"))
        better = "" if self.beyond and low is not None and low > 0 else "but not "
        beside = f"{self.baseline['feature']} (AUROC {hundredths(self.number(self.baseline)[0])})"
        words += f", {better}significantly better than the best baseline, {beside}"
        farther = f": its AUROC is {with_interval(gain, low, high)} farther from 0.50"
        return f"{words}{'' if gain is None else farther}."

    def sentence(self, what: str) -> str:
        """A text of `say`: how many features separate items, and how many beat the best baseline.

        what: the items that they separate, such as "right answers from wrong ones".
        """
        where = ", within groups" if self.within else ""
        n, k = f"{len(self.tested):,} features", len(self.telling)
        if self.best is None:
            none = f"none of {ref(n, FEATURES)} has q below {Q}{where}"
            return f"No feature separates {what} better than chance: {none}."
        beat = ""
        if self.baseline is not None:
            better = len(self.beyond) or "none"
            verb = "beat" if len(self.beyond) > 1 else "beats"
            beat = f"; {better} {verb} the best baseline (paired, q below {Q})"
        verb = "separates" if k == 1 else "separate"
        return f"{ref(f'{k:,} of {n}', FEATURES)} {verb} {what} (q below {Q}{where}){beat}."


def verdict(features: pl.DataFrame, *, within: bool) -> Verdict:
    """The verdict on features, rows of `item_features`.

    within: use the numbers within groups. Features of the gold answer are excluded, because they
    use the label. The best of many rows is partly luck: q corrects `telling`, nothing corrects the
    AUROC of `best`.
    """
    kind = "within_" if within else ""
    auroc = f"{kind}auroc"

    def distance(row: Row) -> float:
        return abs(float(row[auroc]) - 0.5)

    made = [row for row in features.iter_rows(named=True) if row[auroc] is not None]
    baselines = [row for row in made if row["role"] == "baseline"]
    baseline = max(baselines, key=distance, default=None)
    tested = [row for row in made if row["role"] not in ("baseline", "gold")]
    telling = [row for row in tested if row["q_value"] is not None and row["q_value"] < Q]
    paired = [row for row in tested if row["gain_p_value"] is not None]
    q_values = benjamini_hochberg([row["gain_p_value"] for row in paired])
    more = [row for row, q in zip(paired, q_values, strict=True) if row["gain"] > 0 and q < Q]
    beyond = telling if baseline is None else [row for row in more if row in telling]
    return Verdict(
        within=within,
        tested=tuple(tested),
        telling=tuple(telling),
        baseline=baseline,
        beyond=tuple(beyond),
        best=max(beyond or telling, key=distance, default=None),
    )


def named(row: Row) -> str:
    """A feature, followed by its site if it has one.

    >>> named({"feature": "distance", "site": "final"}), named({"feature": "gap", "site": ""})
    ('distance of final', 'gap')
    """
    return f"{row['feature']} of {row['site']}" if row["site"] else str(row["feature"])
