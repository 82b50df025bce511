"""Verification notices any damage, readers never turn it into numbers, nothing crashes on it."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import EDITS, LIES, Snapshot, restore, snapshot
from small_capture import make_capture

from lpp.store import Run, create_store, open_store
from lpp.store.errors import FormatError, LppError
from lpp.store.runs.verify import verify_root, verify_run

SEED = 20260
SHARE_OF_LIES = 0.2


class Subject:
    """A store of three runs, and every number in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        create_store(root)
        make_capture((3, 2), (0, 1, 2), seed=7).write(self.root)
        make_capture((2, 3, 2), (0, 1, 3), seed=3).write(self.root)
        make_capture((4, 2), (0, 1, 2), stored_dtype="float32", seed=5).write(self.root)
        self.before: Snapshot = snapshot(self.root)
        self.rows = {run.id: rows_of(run) for run in open_store(self.root).runs.values()}
        self.prompts = {run.id: run.prompts() for run in open_store(self.root).runs.values()}

    def mutate(self, rng: random.Random) -> tuple[str, bool] | None:
        """Do one random act, see that it is noticed, undo it; None where it changed nothing."""
        acts = LIES if rng.random() < SHARE_OF_LIES else EDITS
        name = rng.choice(sorted(acts))
        path = self.root / "runs" / rng.choice(sorted(self.rows))
        try:
            acts[name](rng, path)
            if snapshot(self.root) == self.before:
                return None
            noticed = bool(verify_run(path) or verify_root(self.root))
            if acts is EDITS:
                self.read(path)
        finally:
            restore(self.root, self.before)
        return name, noticed

    def read(self, path: Path) -> None:
        """What readers give is what was written, or an `LppError`."""
        run = open_store(self.root).runs.get(path.name)
        if run is None:
            return
        rows = self.rows[path.name]
        for read in (lambda: rows_of(run, rows), run.prompts):
            try:
                found = read()
            except LppError:
                continue
            if not isinstance(found, dict):
                assert found.equals(self.prompts[path.name])


def rows_of(run: Run, expected: dict[Any, Any] | None = None) -> dict[Any, Any]:
    """(site, prompt, position) -> values, and the statistics of each token; compared if known."""
    found: dict[Any, Any] = {}

    def put(key: Any, value: Any) -> None:
        assert expected is None or expected[key] == value, key
        assert key not in found
        found[key] = value

    for site in run.sites:
        for block in run.blocks(site):
            places = zip(block.prompt_id.tolist(), block.position.tolist(), strict=True)
            for place, row in zip(places, np.ascontiguousarray(block.values), strict=True):
                put((site, *place), row.tobytes())
    for row in run.tokens().to_table().to_pylist():
        put((row["prompt_id"], row["position"]), row)
    return found


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("mutations") / "store")


def mutated(subject: Subject, seed: int, n: int) -> Counter[str]:
    """`n` acts that changed something, by name; fails at the first that went unnoticed."""
    done: Counter[str] = Counter()
    for number in range(100 * n):
        if sum(done.values()) == n:
            break
        outcome = subject.mutate(random.Random(f"{seed}-{number}"))
        if outcome is not None:
            name, noticed = outcome
            assert noticed, f"{name}: unnoticed (seed {seed}-{number})"
            done[name] += 1
    return done


@pytest.mark.slow
def test_damage_is_noticed_and_never_becomes_numbers(subject: Subject) -> None:
    done = mutated(subject, SEED, 120)
    assert sum(done.values()) == 120
    assert snapshot(subject.root) == subject.before


@pytest.mark.slow
def test_every_kind_of_damage_is_noticed(subject: Subject) -> None:
    """Each act once, whatever the dice say."""
    for name, act in {**EDITS, **LIES}.items():
        for attempt in range(20):
            path = subject.root / "runs" / sorted(subject.rows)[attempt % 3]
            act(random.Random(f"{name}-{attempt}"), path)
            changed = snapshot(subject.root) != subject.before
            noticed = bool(verify_run(path) or verify_root(subject.root))
            restore(subject.root, subject.before)
            assert noticed == changed, name
            if changed:
                break
        else:
            raise AssertionError(f"{name} changed nothing")


def test_the_root_document_is_verified_to_the_byte(subject: Subject) -> None:
    path = subject.root / "lpp.json"
    good = path.read_bytes()
    opened = 0
    for offset in range(len(good)):
        before, byte, after = good[:offset], good[offset], good[offset + 1 :]
        for changed in (bytes([byte ^ 1]), bytes([byte, ord(" ")])):
            path.write_bytes(before + changed + after)
            try:
                open_store(subject.root)
            except FormatError:
                continue
            opened += 1
            assert verify_root(subject.root), (offset, changed)
    assert opened > 0  # a space between two words of JSON
    path.write_bytes(good)
    assert verify_root(subject.root) == []


@pytest.mark.soak
def test_ten_thousand_mutations(subject: Subject) -> None:
    done = mutated(subject, SEED + 1, 10_000)
    print(*sorted(done.items()), sep="\n")
    assert set(done) == {*EDITS, *LIES}
