"""`lpp-capture run --dry-run`: the plan, disk, memory and time of one run; the store stays."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stored import stored_objects
from tested_device import DEVICE

from lpp.capture.cli.command import main
from lpp.capture.plan.batches import shard_batches
from lpp.store import open_store
from lpp.store.units import short_bytes

Capture = Callable[..., Result]
PROMPTS = 12


@pytest.fixture
def capture(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Capture:
    """`capture("--dry-run")`: twelve texts of different lengths through a tiny model."""
    corpus = tmp_path / "texts.jsonl"
    texts = ["the dog and the fox " * (1 + n % 4) for n in range(PROMPTS)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def run(*extra: str) -> Result:
        words = ["run", f"--model={tiny_folder('llama')}", f"--corpus={corpus}", "--min-bytes=0"]
        words += [f"--prompts={PROMPTS}", "--context=90", "--batch-tokens=100"]
        return CliRunner().invoke(main, [*words, f"--store={tmp_path / 'store'}", *extra])

    return run


def shown(result: Result) -> dict[str, str]:
    """What was printed, by label."""
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    rows: dict[str, str] = {}
    label = ""
    for line in result.stdout.splitlines():
        label = line[:11].strip() or label
        rows[label] = f"{rows.get(label, '')} {line[11:].strip()}".strip()
    return rows


def test_it_says_what_the_capture_then_does(capture: Capture, tmp_path: Path) -> None:
    said = shown(capture("--dry-run", "--shard-mib=1"))
    assert not (tmp_path / "store").exists()
    done = capture("--shard-mib=1")
    assert done.exit_code == 0
    lines = [line for line in done.stderr.splitlines() if str(tmp_path) not in line]
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80
    (run,) = open_store(tmp_path / "store").runs.values()
    tokens = run.plan.prompts.tokens
    assert said["run"] == run.id
    assert said["model"] == f"llama: float32 in torch on {DEVICE}"
    cut = "cut at 90 tokens (--context) no text has 90 tokens, the longest has 34"
    assert said["prompts"].startswith(f"{PROMPTS} of texts.jsonl, {cut}")
    assert said["tokens"] == f"{tokens:,}, {tokens:,} to capture"
    assert said["sites"] == "5: embed, block.1, ..."
    assert said["shards"] == f"{run.plan.n_shards}, 0 committed, {run.plan.n_shards} to capture"
    groups = [
        batch.lengths
        for shard in range(run.plan.n_shards)
        for batch in shard_batches(run.plan, run.prompts(), shard)
    ]
    padded = sum(len(group) * max(group) for group in groups)
    assert padded > tokens
    shares = f"100 padded tokens, {1 - tokens / padded:.1%} of all padding"
    assert said["batches"] == f"{len(groups)} of at most {shares}"
    assert re.match(r".+ \(about .+ packed\); .+ free", said["on disk"])
    largest = max(shard.rows for shard in run.shards)
    row_bytes = 4 * sum(site.width for site in run.plan.sites)  # float32
    buffers = short_bytes(min(3, run.plan.n_shards) * largest * row_bytes)
    assert said["in memory"].startswith(f"{buffers} for shard buffers")
    assert re.match(r"about .+ at [0-9,]+ tokens/s, estimated", said["time"])


@pytest.mark.parametrize("pace", [1000.0, 1e9])
def test_it_says_from_how_many_epochs_on_storing_takes_less(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: float
) -> None:
    monkeypatch.setattr("lpp.capture.engine.dry_run._measured", lambda *_: (None, pace))
    monkeypatch.setattr("lpp.capture.engine.dry_run.READ_BYTES_PER_SECOND", 0.5e6)
    said = shown(capture("--dry-run", "--sites=block.1,final"))["epochs"]
    assert capture("--sites=block.1,final").exit_code == 0
    (run,) = open_store(tmp_path / "store").runs.values()
    tokens, width = run.plan.prompts.tokens, run.plan.sites[0].width
    once = tokens / pace
    assert f"at {pace:,.0f} tokens/s" in said
    for name, n_sites, lossless in (("all", 5, 1.49), ("final", 1, 1.45), ("chosen", 2, 1.45)):
        for dtype, of_value in (("float32", 4 / lossless), ("float8_e4m3", 2 / 2.3)):
            size = round(tokens * n_sites * width * of_value)
            reading = size / 0.5e6
            least = next((n for n in range(1, 99) if 1.02 * once + n * reading < n * once), None)
            wins = "never: compute again" if least is None else f"from {least} epochs on"
            line = rf"{name} {dtype} +{re.escape(short_bytes(size))} +(under 1 s|\d+ s) +{wins}"
            assert re.search(line, said), line


def test_what_is_committed_is_subtracted_and_nothing_changes(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.capture.plan.planning.shard_bytes", lambda *_: 30_000)
    assert capture("--part=0/2").exit_code == 0
    (run,) = open_store(tmp_path / "store").runs.values()
    before = stored_objects(tmp_path / "store")
    done, n = len(run.shards), run.plan.n_shards
    left = run.plan.prompts.tokens - sum(shard.rows for shard in run.shards)
    said = shown(capture("--dry-run"))
    assert said["shards"] == f"{n}, {done} committed, {n - done} to capture"
    assert said["tokens"].endswith(f", {left:,} to capture")
    rest = shown(capture("--dry-run", "--part=0/2"))
    assert rest["shards"] == f"{n}, {done} committed, 0 to capture as part 0/2"
    assert rest["time"] == "none: every shard is committed"
    assert stored_objects(tmp_path / "store") == before
    assert shown(capture("--dry-run"))["run"] == run.id
    assert shown(capture("--dry-run", "--context=50"))["run"] != run.id


@pytest.mark.parametrize(
    ("has", "says"), [("free_bytes", "are free"), ("available_memory", "--shard-mib")]
)
def test_what_would_not_fit_is_shown_and_then_refused(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: str, says: str
) -> None:
    monkeypatch.setattr(f"lpp.capture.engine.dry_run.{has}", lambda *_: 9)
    result = capture("--dry-run")
    assert result.exit_code == 2
    assert result.stdout.startswith("run        llama-")
    assert says in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("options", [("--report=r.json",), ("--executor=ray", "--workers=1")])
def test_what_needs_a_capture_does_not_go_with_it(
    capture: Capture, options: tuple[str, ...]
) -> None:
    result = capture("--dry-run", *options)
    assert result.exit_code == 2
    assert f"leave {options[0].partition('=')[0]} out" in result.stderr
