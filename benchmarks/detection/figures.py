"""Figures of the page, as SVG on white paper, which is legible on a dark page too."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.detection.damage import KINDS
from benchmarks.detection.power import Shown, null_range, realisations, share, shown
from benchmarks.detection.setting import DRAWN
from lpp.analyze.charts.export import save_chart
from lpp.analyze.charts.run_styles import DASHES, PALETTE, SHAPES
from lpp.analyze.charts.theme import FILLS, INK, ON_FILL, alt, finished, heading

DEPTH_DOSES: Final = ("round-group-4", "prune-20", "noise-0.03", "tune-16")
"""Doses whose depth is shown, of middle strength, beside the blocks left out."""

LEAST: Final = 0.05
"""Of the null's furthest end: the lowest that is drawn."""

HIDDEN: Final = 1.5
"""Ends of a shorter interval, one over the other, lie behind the sign of the value."""

_DECIMALS: Final = re.compile(r"-?\d+\.\d{4,}")
"""Of places in pixels; labels have fewer."""

PANEL: Final = 150
"""Pixels of a panel's side."""


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every figure of results into `folder`."""
    sizes = [str(size) for size in found["setting"]["sizes"]]
    charts = {f"power-{size}": power(found, size) for size in dict.fromkeys((sizes[0], sizes[-1]))}
    charts |= {"values": values(found), "depth": depth(found)}
    drawn = [save_chart(chart, folder / f"{name}.svg") for name, chart in charts.items() if chart]
    for path in drawn:
        text = path.read_text("utf-8").replace(' stroke-width="2" opacity="1"', "")  # of no effect
        path.write_text(_DECIMALS.sub(_short, text), "utf-8")
    return drawn


def _short(number: re.Match[str]) -> str:
    """A tenth of a pixel is enough, and half the file."""
    return f"{float(number[0]):.1f}"


def power(found: Mapping[str, Any], size: str) -> Any:
    """Share of draws of `size` prompts in which each number notices each dose."""
    numbers = shown(found["middle"])
    rows: list[dict[str, Any]] = [
        {
            "kind": KINDS[group[0]["kind"]].title,
            "dose": group[0]["label"],
            "number": one.name,
            "share": round(100 * share(group, one, size)),
        }
        for group in realisations(found)
        for one in numbers
    ]
    if not rows:
        return None
    order = list(dict.fromkeys(row["kind"] for row in rows))
    panels = []
    for place, kind in enumerate(order):
        own = [row for row in rows if row["kind"] == kind]
        x = alt.X(
            "dose:N",
            sort=list(dict.fromkeys(row["dose"] for row in own)),
            title=None,
            axis=alt.Axis(labelAngle=-60, ticks=False, domain=False),
        )
        y = alt.Y(
            "number:N",
            sort=[one.name for one in numbers],
            title=None,
            axis=alt.Axis(ticks=False, domain=False) if place == 0 else None,
        )
        base = alt.Chart(alt.InlineData(values=own)).encode(x=x, y=y)
        color = alt.Color(
            "share:Q", scale=alt.Scale(domain=[0, 100], range=[FILLS[1], FILLS[2]]), legend=None
        )
        cells = base.mark_rect(aria=False, stroke="white").encode(color=color)
        text = base.mark_text(aria=False, fontSize=9, color=ON_FILL).encode(text="share:Q")
        above = alt.TitleParams(text=_two_lines(kind), fontSize=10)
        panels.append(
            alt.layer(cells, text).properties(width=alt.Step(23), height=alt.Step(19), title=above)
        )
    title = f"Share of draws of {size} prompts in which a number notices a dose, per cent"
    description = f"{title}, for {len(numbers)} numbers and {len(rows) // len(numbers)} doses."
    return finished(
        alt.hconcat(*panels, spacing=6).properties(
            title=heading(title, []), description=description
        )
    )


def _two_lines(text: str) -> list[str]:
    """Broken at the space nearest to the middle."""
    spaces = [k for k, letter in enumerate(text) if letter == " "]
    if len(text) < 14 or not spaces:
        return [text]
    at = min(spaces, key=lambda k: abs(k - len(text) / 2))
    return [text[:at], text[at + 1 :]]


def values(found: Mapping[str, Any]) -> Any:
    """Each number of `final` by dose, in units of the furthest end of a null's interval."""
    numbers = [one for one in shown(found["middle"]) if one.site == "final"]
    rows = [
        {"dose": dose["label"], "kind": dose["kind"], **row}
        for dose, *_ in realisations(found)
        for row in _ratios(found, dose, numbers)
    ]
    if not rows:
        return None
    panels = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        order = list(dict.fromkeys(row["dose"] for row in own))
        x = alt.X("dose:N", sort=order, title=None, axis=alt.Axis(labelAngle=-40))
        panels.append(_panel(own, x, KINDS[kind].title, [one.name for one in numbers]))
    title = "How far each number moved, in units of the null"
    notes = [
        "1: the furthest end of a null's 95 % interval. Absolute values, all prompts, without the "
        "first two positions; bars are 95 % intervals. A log axis, cut at the bottom."
    ]
    return _together(panels, title, notes, columns=3)


def depth(found: Mapping[str, Any]) -> Any:
    """Numbers of sites by depth, for one dose of each kind, in units of the null at that site."""
    chosen = [
        dose
        for dose, *_ in realisations(found)
        if dose["name"] in DEPTH_DOSES or dose["kind"] == "block"
    ]
    of_sites = [one for one in shown(found["middle"]) if one.site == found["middle"]]
    of_sites.append(
        Shown(name="effective rank", of="effective_rank", site=found["middle"], unit="dimensions")
    )
    names = {dose["name"]: f"{KINDS[dose['kind']].title}, {dose['label']}" for dose in chosen}
    panels = []
    for one in of_sites:
        rows = []
        for site in found["sites"][1:]:  # nothing changes at `embed`
            at = Shown(name=one.name, of=one.of, site=site, signed=one.signed, unit=one.unit)
            for dose in chosen:
                rows += [
                    {**row, "site": site.removeprefix("block."), "number": names[dose["name"]]}
                    for row in _ratios(found, dose, [at])
                ]
        if rows:
            order = [site.removeprefix("block.") for site in found["sites"][1:]]
            x = alt.X("site:N", sort=order, title="block", axis=alt.Axis(labelAngle=0))
            panels.append(_panel(rows, x, one.name.partition(",")[0], list(names.values())))
    if not panels:
        return None
    title = "How far each site moved, in units of the null at that site"
    return _together(panels, title, ["As above, by depth."], columns=2)


def _ratios(
    found: Mapping[str, Any], dose: Mapping[str, Any], numbers: list[Shown]
) -> Iterator[dict[str, Any]]:
    """|value| and its interval over the null's furthest end; below `LEAST`, at it."""
    for one in numbers:
        value, _, low, high = one.points(dose, DRAWN)
        furthest = max(abs(end) for end in null_range(found, one, DRAWN))
        if value is None or furthest == 0:
            continue
        row: dict[str, Any] = {"number": one.name, "value": _cut(abs(value) / furthest)}
        if low is not None and high is not None:
            ends = sorted((low, high) if value >= 0 else (-high, -low))
            bottom, top = (_cut(end / furthest) for end in ends)
            if top > HIDDEN * bottom:
                row |= {"low": bottom, "high": top}
        yield row


def _cut(ratio: float) -> float:
    return float(f"{max(ratio, LEAST):.4g}")


def _panel(rows: list[dict[str, Any]], x: Any, title: str, order: list[str]) -> Any:
    """Lines of ratios over `x`, a colour and a shape for each of `order`."""
    y = alt.Y(
        "value:Q",
        title=None,
        scale=alt.Scale(type="log"),
        axis=alt.Axis(values=[0.1, 1, 10, 100, 1000], format="~g"),
    )
    color = alt.Color("number:N", scale=_cycled(order, PALETTE), legend=_legend())
    shape = alt.Shape("number:N", scale=_cycled(order, SHAPES), legend=_legend())
    again = [order.index(name) >= len(PALETTE) for name in order]  # colours come a second time
    dashes = [DASHES[place] for place in again]
    dash = alt.StrokeDash("number:N", scale=alt.Scale(domain=order, range=dashes), legend=None)
    base = alt.Chart(alt.InlineData(values=rows))
    one = alt.Chart(alt.InlineData(values=[{"one": 1}])).mark_rule(
        strokeDash=[3, 3], color=INK, aria=False
    )
    layers = [
        one.encode(y=alt.Y("one:Q", title=None)),
        base.transform_filter(alt.FieldValidPredicate(field="low", valid=True))
        .mark_rule(opacity=0.5, aria=False)
        .encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.3, aria=False).encode(x=x, y=y, color=color, strokeDash=dash),
        base.mark_point(filled=True, size=28, opacity=1, aria=False).encode(
            x=x, y=y, color=color, shape=shape
        ),
    ]
    heads = alt.TitleParams(text=title, fontSize=11)
    return alt.layer(*layers).properties(width=PANEL + 40, height=PANEL, title=heads)


def _cycled(order: list[str], values: tuple[str, ...]) -> Any:
    cycle = [values[place % len(values)] for place in range(len(order))]
    return alt.Scale(domain=order, range=cycle)


def _legend() -> Any:
    return alt.Legend(title=None, orient="bottom", columns=3, symbolSize=60, symbolOpacity=1)


def _together(panels: list[Any], title: str, notes: list[str], columns: int) -> Any:
    whole = alt.concat(*panels, columns=columns, spacing=16).resolve_legend("shared")
    whole = whole.resolve_scale(color="shared", shape="shared", y="shared")
    return finished(whole.properties(title=heading(title, notes), description=f"{title}."))
