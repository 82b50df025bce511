"""Colours of charts: contrast on both papers, and for those who see fewer colours."""

import itertools
from typing import Any

import numpy as np
import pytest

from lpp.analyze.charts.run_styles import OTHERS, PALETTE
from lpp.analyze.charts.theme import GREY


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", [*PALETTE, *OTHERS, GREY])
@pytest.mark.parametrize("paper", ["#FFFFFF", "#1A1A1A"])
def test_marks_stand_out_on_both_papers(color: str, paper: str) -> None:
    assert contrast(color, paper) >= 3


MACHADO = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip
"""Total dichromacy in linear RGB; Machado, Oliveira and Fernandes 2009."""


@pytest.mark.parametrize("colors", [PALETTE, OTHERS])
@pytest.mark.parametrize("kind", MACHADO)
def test_no_two_colors_are_one_to_a_dichromat(kind: str, colors: tuple[str, ...]) -> None:
    seen = []
    for color in colors:
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        seen.append(lab(np.clip(np.array(MACHADO[kind]) @ linear, 0, 1)))
    apart_by = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart_by) > 10  # CIE 1976; about 2 can just be told apart


def lab(linear: Any) -> Any:
    """CIELAB of linear sRGB, white at D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
