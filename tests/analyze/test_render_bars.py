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

import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze.cli.command import main
from lpp.analyze.text.bars import BAR, bar_sections
from lpp.analyze.text.text import printable

HEADS = {"effective_rank": "effective rank, dimensions"}
BLOCKS = "▏▎▍▌▋▊▉█"
VALUE = r"[\d.e+-]+(?: ± [\d.e+-]+)? \(\d+\)"


def row(run: str, value: float | None, **others: Any) -> dict[str, Any]:
    return {
        "run": run,
        "site": "final",
        "prompt_set": "texts",
        "flags": [],
        "effective_rank": value,
        "effective_rank_stderr": None if value is None else value / 16,
        "effective_rank_prefix": None if value is None else 40,
        **others,
    }


def printed(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["profile", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lengths_by_hand() -> None:
    lines = "".join(
        bar_sections([row("a", 16.0), row("b", 1.0), row("c", None), row("d", 0.0)], HEADS)
    ).splitlines()
    assert lines[1] == "effective rank, dimensions"
    # 22 columns for 16; 1 of 16 is 11 eighths of a column
    assert re.fullmatch(r"  a +16 ± 1 \(40\)  " + "█" * BAR, lines[2])
    assert re.fullmatch(r"  b +1 ± 0\.062 \(40\)  █▍", lines[3])
    assert re.fullmatch(r"  c +-", lines[4])
    assert re.fullmatch(r"  d +0 ± 0 \(40\)", lines[5])
    assert {line.rindex(")") for line in (lines[2], lines[3], lines[5])} == {54}


def test_nothing_has_a_value() -> None:
    text = "".join(bar_sections([row("a", None)], HEADS))
    assert not set(text) & set(BLOCKS)


def test_flags_and_texts_have_sections_where_there_are_some() -> None:
    rows = [row("a", 1.0, flags=["collapsed", "template"]), row("b", 2.0, prompt_set="other-texts")]
    text = "".join(bar_sections(rows, HEADS))
    assert re.search(r"\nprompt set\n  a +texts\n  b +other-te\n", text)
    assert re.search(r"\nflags\n  a +collapsed, template\n  b +none\n", text)
    plain = "".join(bar_sections([row("a", 1.0), row("b", 2.0)], HEADS))
    assert "flags" not in plain
    assert "prompt set" not in plain


def test_several_sites_stand_below_their_run() -> None:
    rows = [row(run, 1.0, site=site) for run in "ab" for site in ("embed", "final")]
    lines = "".join(bar_sections(rows, HEADS)).splitlines()[2:]
    expected = ["a", "embed", "final", "b", "embed", "final"]
    assert [line.split()[0] for line in lines if line] == expected


@pytest.mark.slow
@pytest.mark.parametrize("sites", [(), ("--site", "all")])
def test_the_same_numbers_as_the_table(make_run: MakeRun, sites: tuple[str, ...]) -> None:
    made = make_run(model="HuggingFaceTB/SmolLM2-135M-Instruct", seed=1)
    make_run(model="HuggingFaceTB/SmolLM2-135M-Instruct-untrained", seed=2)
    asked = (made.root, *sites, "--context", "10,20", "--metrics", "paper,stable_rank")
    bars = printed(*asked, "--format", "bars")
    profiles = json.loads(printed(*asked, "--format", "json"))
    shown = re.findall(VALUE, bars)
    assert len(shown) == 6 * len(profiles)
    for profile in profiles:
        for metric in ("entropy_norm", "participation_ratio", "effective_rank_norm"):
            value, prefix = profile[metric], profile[f"{metric}_prefix"]
            assert any(
                text.startswith(f"{value:.4g} ") and text.endswith(f" ({prefix})") for text in shown
            )
    assert max(map(len, bars.splitlines()[:-2])) <= 80
    assert bars.count("Declared metrics at prefix") == 2
    for flag in {flag for profile in profiles for flag in profile["flags"]}:
        assert re.search(rf"^\[\d\] {flag}: ", bars, re.MULTILINE)


def test_only_what_is_asked_for_has_bars(make_run: MakeRun) -> None:
    text = printed(
        make_run().root, "--metrics", "participation_ratio", "--format", "bars", "--errors", "none"
    )
    assert "participation ratio at final, of min(N, d)" in text
    assert "effective rank" not in text
    assert "±" not in text.partition("participation ratio at final")[2]


@pytest.mark.slow
def test_a_pipe_gets_the_table(make_run: MakeRun) -> None:
    root = make_run().root
    assert printed(root) == printed(root, "--format", "table")
    assert not set(printed(root)) & set(BLOCKS)


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
def test_a_terminal_gets_bars(make_run: MakeRun) -> None:
    root = make_run().root
    shown = on_a_terminal(root, PYTHONIOENCODING="utf-8")
    assert shown == printed(root, "--format", "bars")
    assert "█" * BAR in shown
    assert "\x1b" not in shown  # no colour, so nothing is told by one


@pytest.mark.slow
def test_a_terminal_without_blocks_gets_ascii(make_run: MakeRun) -> None:
    root = make_run().root
    shown = on_a_terminal(root, PYTHONIOENCODING="ascii")
    assert shown.isascii()
    assert "#" * BAR in shown
    full = printed(root, "--format", "bars")
    for plain, line in zip(shown.splitlines(), full.splitlines(), strict=True):
        numbers = plain.replace("+-", " ± ").split()
        assert [w for w in numbers if "#" not in w] == [
            w for w in line.split() if not set(w) & set(BLOCKS)
        ]
        assert len(plain) <= max(len(line), 80)
    table = on_a_terminal(root, "--format", "table", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert table.isascii()
    assert "?" not in table


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1.5 ± 0.2", "1.5 +-0.2"),
        ("   ±0.2 x", "  +-0.2 x"),
        ("▏▎▍▌▋▊▉█.", "   #####."),
        ("──", "--"),
        ("a█▍ \nb", "a#\nb"),
        ("é", "?"),
    ],
)
def test_ascii_keeps_the_width(text: str, plain: str) -> None:
    assert printable(text, "ascii") == plain
    assert printable(text, "utf-8") == text
    assert printable(text, None) == text
