"""Any damaged file of a store through a repair that computes: as it was, or one message."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from mutations import FILE_ACTS, ODD_VALUE, kind_of, restore, snapshot

from lpp.capture.cli.command import main
from lpp.store import open_store
from lpp.store.errors import LppError

TEXTS = "\n\n".join("the dog and the fox " * 6 for _ in range(80))


@pytest.fixture(scope="module")
def store(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several shards and its twin, beside the folder of their model."""
    place = tmp_path_factory.mktemp("mutated")
    (place / "texts.txt").write_text(TEXTS)
    shutil.copytree(tiny_folder("llama"), place / "llama")
    words = ["run", "--prompts=80", "--min-bytes=0", "--context=40", "--shard-mib=1"]
    words += [f"--corpus={place / 'texts.txt'}", f"--store={place / 'lpp'}"]
    for twin in ([], ["--untrained-seed=3"]):
        done = CliRunner().invoke(main, [*words, f"--model={place / 'llama'}", *twin])
        assert done.exit_code == 0, done.stderr
    return place / "lpp"


def mutate(store: Path, rng: random.Random) -> tuple[str, str]:
    """One act, then a repair. What was done and how it ended; fails where that is illegal."""
    before = snapshot(store)
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    kind = rng.choice(sorted({kind_of(store, path) for path in files}))
    path = rng.choice([path for path in files if kind_of(store, path) == kind])
    odd = path.suffix == ".json" and rng.random() < 0.5
    act = "odd value" if odd else rng.choice(sorted(FILE_ACTS))
    try:
        (ODD_VALUE if odd else FILE_ACTS[act])(rng, store, path)
        mutated = snapshot(store)
        if mutated == before:
            return f"{kind}, {act}", "nothing changed"
        done = CliRunner().invoke(main, ["repair", str(store), f"--model={store.parent / 'llama'}"])
        after = snapshot(store)
        whole = clean(store)
    finally:
        restore(store, before)
    said = f"{kind}, {act}: exit {done.exit_code}\n{done.output[-3000:]}"
    assert isinstance(done.exception, SystemExit | None), said
    assert done.exit_code in (0, 1, 2), said
    assert "Traceback" not in done.output, said
    assert "This is a bug" not in done.output, said
    # what was intact stays, but for objects of what was damaged: a shard, a shared directory
    damaged = [f"{unit(store, path)}/"] + ["heads/"] * kind.startswith("matrices")
    lost = [
        key
        for key, content in before.items()
        if isinstance(content, bytes) and mutated.get(key) == content != after.get(key)
    ]
    assert all(f"{key}/".startswith(tuple(damaged)) for key in lost), f"{said}\nlost: {lost}"
    if done.exit_code == 0 and path.relative_to(store).parts[0] == "runs":
        assert whole or "missing" in done.output, said
    return f"{kind}, {act}", f"exit {done.exit_code}{', whole' * whole}"


def unit(store: Path, path: Path) -> str:
    """The directory that is written at once and holds a file, relative to the store."""
    parts = path.relative_to(store).parts
    return "/".join(parts[: 4 if "shards" in parts else 2])


def clean(store: Path) -> bool:
    try:
        return not any(run.verify() for run in open_store(store).runs.values())
    except (LppError, OSError):
        return False


@pytest.mark.slow
def test_a_repair_restores_or_says_why(store: Path) -> None:
    found = Counter(mutate(store, random.Random(f"few-{k}"))[1] for k in range(8))
    assert found["exit 0, whole"] > 0, found


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hundreds_of_repairs(store: Path) -> None:
    found = Counter(mutate(store, random.Random(f"many-{k}")) for k in range(300))
    print(*sorted(found.items()), sep="\n")
