"""A damaged store through each command: the numbers that were there before, or one message."""

import io
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner
from kept_heads import keep_head
from made_runs import MakeRun
from mutations import EDITS, LIES, Snapshot, restore, snapshot

from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.sql.cli.command import main as sql

LENGTHS = (12, 7, 20, 20, 3, 15, 9, 11, 20, 6, 8, 14)

SPECTRA = "SELECT * FROM spectra JOIN profiles USING (run) ORDER BY ALL"
TOKENS = "SELECT * FROM token_stats JOIN prompts USING (run, prompt_id) ORDER BY ALL"

COMMANDS: Final[dict[str, tuple[click.Command, Callable[[str], list[str]]]]] = {
    "verify": (analyze, lambda store: ["verify", store]),
    "repair": (capture, lambda store: ["repair", store, "--dry-run"]),
    "profile": (analyze, lambda store: ["profile", store]),
    "diff": (analyze, lambda store: ["diff", store, "base", "tuned"]),
    "layers": (analyze, lambda store: ["layers", store, "--skip-first", "2"]),
    "cka": (analyze, lambda store: ["cka", store, "--skip-first", "2"]),
    "report": (analyze, lambda store: ["report", store, "-o", f"{store}.md"]),
    "spectra": (sql, lambda store: [store, SPECTRA, "--format=csv"]),
    "token_stats": (sql, lambda store: [store, TOKENS, "--format=csv"]),
}
"""What is run, with a store."""

SAYS_SO: Final = (
    "missing",
    "damaged",
    "left out",
    "fewer",
    "not committed",
    "no valid record",
    "lacks",
    "altered",
    "not a JSON document",
)
"""Words of a line that says why numbers are of fewer prompts or runs."""


class Commands:
    """A store of two runs, as it is before a profile and after, and what each command prints."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.states: dict[str, Snapshot] = {"fresh": snapshot(root)}
        first = {name: self.run(name) for name in COMMANDS}
        self.states["profiled"] = snapshot(root)
        self.printed = {name: self.run(name) for name in COMMANDS}
        # the head is made up: verify says so of the store as it is
        for name, (code, _, err) in self.printed.items():
            assert (code == 0) != (name == "verify"), (name, err)
            assert name == "report" or first[name][:2] == self.printed[name][:2]

    def run(self, name: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        command, words = COMMANDS[name]
        lines = io.StringIO()
        handler = logging.StreamHandler(lines)
        logging.getLogger("lpp").addHandler(handler)
        try:
            done = CliRunner().invoke(command, words(str(self.root)))
        finally:
            logging.getLogger("lpp").removeHandler(handler)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        page = self.root.with_name(f"{self.root.name}.md")
        told = page.read_text("utf-8") if name == "report" and done.exit_code == 0 else done.stdout
        return done.exit_code, told, done.stderr + lines.getvalue()

    def mutate(self, name: str, rng: random.Random) -> str:
        """One random act, then a command; what came of it. Fails where a number is wrong."""
        of_database = name == "report" or COMMANDS[name][0] is sql
        state = "profiled" if of_database else rng.choice(sorted(self.states))
        before = self.states[state]
        restore(self.root, before)
        lies = name == "verify" and rng.random() < 0.2
        act = rng.choice(sorted(LIES if lies else EDITS))
        run = rng.choice(sorted((self.root / "runs").iterdir()))
        try:
            (LIES if lies else EDITS)[act](rng, run)
            if snapshot(self.root) == before:
                return "nothing changed"
            code, out, err = self.run(name)
        finally:
            restore(self.root, before)
        new = set(out.splitlines()) - set(self.printed[name][1].splitlines())
        said = f"{name}, {state}, {act}: exit {code}\n" + "\n".join(sorted(new)) + err[-2000:]
        assert code in (0, 1, 2), said
        assert "Traceback" not in out + err, said
        assert "This is a bug" not in out + err, said
        if name == "verify":
            assert code == 1, said
            assert out != self.printed[name][1], said
        elif code == 0 and out != self.printed[name][1]:
            assert any(word in out + err for word in SAYS_SO), said
            return "other runs or prompts, and says so"
        return f"exit {code}"


@pytest.fixture
def commands(make_run: MakeRun) -> Commands:
    made = [
        make_run(LENGTHS, model=f"tiny/{model}", seed=seed, vary_tokens=True)
        for seed, model in enumerate(("base", "tuned"))
    ]
    for one in made:
        keep_head(one.root, one.plan)
    return Commands(made[0].root)


def mutated(commands: Commands, name: str, n: int, seed: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for number in range(n):
        found[commands.mutate(name, random.Random(f"{name}-{seed}-{number}"))] += 1
    return found


@pytest.mark.slow
def test_damage_is_no_other_number_and_no_bug(commands: Commands) -> None:
    for name in COMMANDS:
        found: Any = mutated(commands, name, 6, seed=1)
        assert sum(found.values()) - found["nothing changed"] > 0


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", COMMANDS)
def test_three_hundred_acts(commands: Commands, name: str) -> None:
    print(name, *sorted(mutated(commands, name, 300, seed=2).items()))
