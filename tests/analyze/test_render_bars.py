"""Profiles in characters: the same numbers as the table, with bars, on a terminal."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.cli.command import main
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.terminal import BAR, bar, printable
from lpp.analyze.pages.words import number
from lpp.analyze.pages.write import written

BLOCKS = "▏▎▍▌▋▊▉█"
VALUE = r"[\d.,e+-]+(?: ± [\d.,e+-]+)? \(\d+\)"


def bars_of(*rows: tuple[str, float | None], **columns: Any) -> list[str]:
    """Lines of a page with the effective rank of each run."""
    frame = pl.DataFrame(
        {
            "run": [run for run, _ in rows],
            **columns,
            "effective_rank": [value for _, value in rows],
            "effective_rank_stderr": [None if value is None else value / 16 for _, value in rows],
            "effective_rank_prefix": [None if value is None else 40 for _, value in rows],
        },
        schema_overrides={"effective_rank": pl.Float64, "effective_rank_stderr": pl.Float64},
    )
    shown = ("run", "site", "effective_rank", "flags")
    table = table_of("ranks", "Ranks", frame, METRICS, first=shown, compared=True)
    page = Page(
        title="Ranks",
        opening=Opening(()),
        sections=(Section("ranks", "Ranks", tables=(table,)),),
        runs=RunStyles({}),
    )
    return written(page, "bars").splitlines()


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["profile", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lengths_by_hand() -> None:
    page = bars_of(("a", 16.0), ("b", 1.0), ("c", None), ("d", 0.0))
    lines = page[page.index("effective rank, dimensions") + 1 :]
    # 22 columns for 16; 1 of 16 is 11 eighths of a column
    assert re.fullmatch(r"  a +16 ± 1 \(40\)  " + "█" * BAR, lines[0])
    assert re.fullmatch(r"  b +1 ± 0\.063 \(40\)  █▍", lines[1])
    assert re.fullmatch(r"  d +0 ± 0 \(40\)", lines[2])  # nothing is known of c
    assert {line.rindex(")") for line in lines[:3]} == {54}


@pytest.mark.parametrize(
    ("value", "most", "text"),
    [(8, 8, "██"), (4, 8, "█"), (1, 8, "▎"), (0, 8, ""), (None, 8, ""), (1, 0, ""), (-1, 8, "")],
)
def test_bars(value: float | None, most: float, text: str) -> None:
    assert bar(value, most, 2) == text


def test_flags_have_a_section_and_sites_stand_beside_their_run() -> None:
    lines = bars_of(
        *((run, 1.0) for run in "aabb"),
        site=["embed", "final"] * 2,
        flags=[["collapsed"], [], [], ["template"]],
    )
    numbers = [line.split()[:2] for line in lines if "(40)" in line]
    assert numbers == [["a", "embed"], ["a", "final"], ["b", "embed"], ["b", "final"]]
    marked = [line.split() for line in lines[lines.index("flags") + 1 :][:4]]
    assert marked == [["a", "embed", "¹"], ["a", "final"], ["b", "embed"], ["b", "final", "²"]]


@pytest.mark.slow
@pytest.mark.parametrize("sites", [(), ("--site", "all")])
def test_the_same_numbers_as_the_table(make_run: MakeRun, sites: tuple[str, ...]) -> None:
    made = make_run(model="HuggingFaceTB/SmolLM2-135M-Instruct", seed=1)
    make_run(model="HuggingFaceTB/SmolLM2-135M-Instruct-untrained", seed=2)
    asked = (made.root, *sites, "--context", "10,20", "--metrics", "paper,stable_rank")
    bars = printed(*asked, "--format", "bars")
    profiles = json.loads(printed(*asked, "--format", "json"))
    shown = re.findall(VALUE, bars)
    assert len(shown) == (6 if not sites else 5) * len(profiles)
    for profile in profiles:
        for metric in ("entropy_norm", "participation_ratio", "effective_rank_norm"):
            value, prefix = profile[metric], profile[f"{metric}_prefix"]
            assert any(
                text.startswith(f"{number(value)} ") and text.endswith(f" ({prefix})")
                for text in shown
            )
    assert max(len(line) for line in bars.splitlines() if str(made.root) not in line) <= 80
    assert bars.count("Declared metrics at prefix") == 2
    for flag in {flag for profile in profiles for flag in profile["flags"]}:
        assert re.search(rf"^\[\d\] {flag}: ", bars, re.MULTILINE)


def test_only_what_is_asked_for_has_bars(make_run: MakeRun) -> None:
    text = printed(
        make_run().root, "--metrics", "participation_ratio", "--format", "bars", "--errors", "none"
    )
    assert "PR / min(N, d), share" in text
    assert "effective rank" not in text
    bars = text.partition("participation ratio, dimensions")[2]
    assert "±" not in bars.partition("flags")[0]


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a terminal shows of `lpp-analyze profile`."""
    program = str(Path(sys.executable).with_name("lpp-analyze"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [program, "profile", *map(str, arguments)],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", **environment},
    ) as process:
        os.close(theirs)
        shown = io.BytesIO()
        try:
            while part := os.read(ours, 1 << 16):
                shown.write(part)
        except OSError:  # Linux ends the reading of a terminal so
            pass
        finally:
            os.close(ours)
        errors = process.stderr.read() if process.stderr else b""
    assert process.returncode == 0, errors.decode()
    return shown.getvalue().decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_gets_the_table_of_a_pipe(make_run: MakeRun) -> None:
    root = make_run().root
    shown = on_a_terminal(root, PYTHONIOENCODING="utf-8")
    assert shown == printed(root) == printed(root, "--format", "table")
    assert not set(shown) & set(BLOCKS)
    assert "\x1b" not in shown  # no colour, so nothing is told by one


@pytest.mark.slow
def test_a_terminal_without_blocks_gets_ascii(make_run: MakeRun) -> None:
    root = make_run().root
    shown = on_a_terminal(root, "--format", "bars", PYTHONIOENCODING="ascii")
    assert shown.isascii()
    assert "#" * BAR in shown
    known = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹─–", "0123456789--")
    full = printed(root, "--format", "bars").translate(known)
    for plain, line in zip(shown.splitlines(), full.splitlines(), strict=True):
        numbers = plain.replace("+-", " ± ").split()
        assert [w for w in numbers if "#" not in w] == [
            w for w in line.split() if not set(w) & set(BLOCKS)
        ]
        assert len(plain) <= max(len(line), 80)
    table = on_a_terminal(root, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert table.isascii()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1.5 ± 0.2", "1.5 +-0.2"),
        ("   ±0.2 x", "  +-0.2 x"),
        ("▏▎▍▌▋▊▉█.", "   #####."),
        ("──", "--"),
        ("a█▍ \nb", "a#\nb"),
        ("²¹ –", "21 -"),
        ("é", "?"),
    ],
)
def test_ascii_keeps_the_width(text: str, plain: str) -> None:
    assert printable(text, "ascii") == plain
    assert printable(text, "utf-8") == text
    assert printable(text, None) == text
