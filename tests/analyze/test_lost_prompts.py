"""A gate of `lpp-analyze diff` where prompts of the base run take no part: it never passes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_runs import MakeRun

from lpp.analyze.cli.command import main

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)


def invoke(root: Path, *words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["diff", str(root), *words])


LOST: tuple[tuple[dict[str, Any], int, int], ...] = (
    ({"set_aside": range(2, len(LENGTHS))}, 10, 0),
    ({"shards": [0]}, 0, 10),
    ({"shards": [0, 1, 2, 3, 4], "set_aside": [3]}, 1, 2),
)
"""What befalls a candidate, and how many prompts are set aside and missing by that."""


@pytest.mark.slow
@pytest.mark.parametrize(("fate", "set_aside", "missing"), LOST)
def test_a_gate_is_not_decided_by_the_prompts_that_are_left(
    fate: dict[str, Any], set_aside: int, missing: int, make_run: MakeRun
) -> None:
    a = make_run(LENGTHS, model="tiny/base")
    make_run(LENGTHS, model="tiny/tuned", seed=1, **fate)
    gate = ("--fail-if", "log_perplexity > 1e9", "--fail-if", "missing > 0.5")
    done = invoke(a.root, "base", "tuned", *gate, "--format", "json")
    assert done.exit_code == 1
    tables = json.loads(done.stdout)["tables"]
    (fact,) = tables["comparisons"]
    share = (set_aside + missing) / len(LENGTHS)
    assert fact["base_prompts"] == len(LENGTHS)
    assert fact["set_aside"] == pytest.approx(set_aside / len(LENGTHS))
    assert fact["missing"] == pytest.approx(missing / len(LENGTHS))
    undecided, named = tables["gate"]
    assert (undecided["outcome"], undecided["failed"]) == ("not decided", True)
    told = f"{set_aside + missing} of the 12 prompts of A take no part"
    assert told in undecided["why"]
    assert (named["outcome"], named["why"]) == ("fail" if missing > 6 else "not met", None)
    for form in ("text", "md"):
        done = invoke(a.root, "base", "tuned", *gate, "--format", form)
        assert done.exit_code == 1
        assert [line for line in done.stdout.splitlines() if "not decided" in line]
        assert told in " ".join(done.stdout.split())
    for allowed, code in ((share - 0.01, 1), (share, 0)):
        words = (*gate[:2], "--allow-missing", str(allowed))
        assert invoke(a.root, "base", "tuned", *words).exit_code == code
        assert invoke(a.root, "--against", "base", *words).exit_code == code
    done = invoke(a.root, "base", "tuned", *gate[:2], "--prompts", "2")
    assert done.exit_code == 0, "whoever asks for two prompts has lost none"
    assert invoke(a.root, "base", "tuned").exit_code == 0


@pytest.mark.slow
def test_prompts_that_the_base_lost_are_lost_too(make_run: MakeRun) -> None:
    a = make_run(LENGTHS, model="tiny/base", set_aside=range(2, len(LENGTHS)))
    make_run(LENGTHS, model="tiny/tuned", seed=1)
    done = invoke(a.root, "base", "tuned", "--fail-if", "log_perplexity > 1e9")
    assert done.exit_code == 1
    assert "10 of the 12 prompts of A take no part" in " ".join(done.stdout.split())


def test_what_may_be_missing_goes_with_a_gate(tmp_path: Path) -> None:
    done = invoke(tmp_path, "base", "tuned", "--allow-missing", "0.5")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--fail-if" in done.stderr
