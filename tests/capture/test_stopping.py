"""Real signals to a real command: one finishes the shard under way, two end at once."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from stored import left_behind

from lpp.capture.cli.command import main
from lpp.capture.engine.stopping import Stop, stoppable
from lpp.store import Run, open_store
from lpp.store.process.signals import polite_ends

PROMPTS = 200
MANY_PROMPTS = 4000  # a shard of them lasts longer than any pause of a busy machine
OPTIONS = [
    *("--model=model", "--corpus=texts.txt", f"--prompts={PROMPTS}", "--min-bytes=0"),
    *("--context=40", "--batch-tokens=4"),
]
COMMAND = str(Path(sys.executable).with_name("lpp-capture"))
STOPPING = re.compile(r"Stopping after shard (\d+) of (\d+) \(([0-9.]+) s at most\); again to stop")


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that takes a while, and `model`."""
    place = tmp_path_factory.mktemp("stopping")
    texts = ["the dog and the fox " * (2 + n % 3) for n in range(MANY_PROMPTS)]
    (place / "texts.txt").write_text("\n\n".join(texts))
    (place / "model").symlink_to(tiny_folder("gpt2"))
    return place


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`lpp-capture run` into a store, one prompt a batch; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(store: Path, *words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [COMMAND, "run", *OPTIONS, *words, f"--store={store}"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def until(process: "subprocess.Popen[str]", words: str) -> str:
    """Read its log up to the line that has `words`."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"ended with {process.wait()} without {words!r}")


def only(store: Path) -> Run:
    (run,) = open_store(store).runs.values()
    return run


@pytest.mark.slow
def test_one_request_finishes_the_shard_and_the_command_resumes(
    start: Callable[..., "subprocess.Popen[str]"],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "lpp"
    process = start(store, "--shard-mib=1")
    until(process, "committed")  # not every shard has a line
    process.send_signal(signal.SIGTERM)
    found = STOPPING.match(until(process, "Stopping"))
    assert found is not None
    last, shards = int(found[1]), int(found[2])
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    run = only(store)
    assert run.missing_shards == tuple(range(last, shards))  # all up to it, and no further one
    assert last < shards
    assert left_behind(run.path) == []
    assert err.endswith(
        f"({run.id}): stopped as asked, {shards - last} shards are missing.\n"
        "Everything committed stays; the same command resumes.\n"
    )
    monkeypatch.chdir(folder)
    resumed = [*OPTIONS, "--shard-mib=1", f"--store={store}"]
    again = CliRunner().invoke(main, ["run", *resumed])
    assert again.exit_code == 0, again.stderr
    assert f"shard {last} of" not in again.stderr
    assert only(store).verify() == []


@pytest.mark.slow
def test_the_second_request_ends_at_once(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = start(tmp_path / "lpp", f"--prompts={MANY_PROMPTS}")  # one shard, a batch a prompt
    while not list(tmp_path.glob("lpp/runs/*/shards/.writer~*")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # the sign comes just before the first batch
    process.send_signal(signal.SIGTERM)
    assert until(process, "Stopping").startswith("Stopping after shard 1 of 1 (60 s at most)")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        err.strip() == "Interrupted. Everything committed so far stays; the same command resumes."
    )
    assert only(tmp_path / "lpp").shards == ()


SCRIPT = """
import sys, time
from lpp.capture.engine.stopping import stoppable
from lpp.store.terminal.progress import SHOWN

with stoppable(8, float(sys.argv[1]), SHOWN) as stop:
    if stop.begin(2):
        print("begun", flush=True)
    while not stop.requested or sys.argv[2] == "on":
        time.sleep(0.01)
print("tidy")
"""


def scripted(script: str, *words: str) -> "subprocess.Popen[str]":
    """A process that has begun shard 3 of 8."""
    line = [sys.executable, "-c", script, *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_request_counts(number: int) -> None:
    process = scripted(SCRIPT, "60", "")
    process.send_signal(number)
    said = "Stopping after shard 3 of 8 (60 s at most); again to stop at once.\n"
    assert process.communicate(timeout=60) == ("tidy\n", said)
    assert process.returncode == 0


def test_patience_has_an_end() -> None:
    process = scripted(SCRIPT, "0.1", "on")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out == ""
    assert err.splitlines()[1] == "0.1 s have passed: stopping at once."
    assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_what_was_ignored_stays_ignored() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SCRIPT
    process = scripted(ignoring, "60", "")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1].count("Stopping") == 1


@pytest.mark.slow
def test_a_main_thread_that_does_not_listen_is_no_way_to_stay() -> None:
    """The interpreter's handlers never run inside this call; the watcher ends the process."""
    script = (
        "import ctypes, sys\n"
        "from lpp.capture.engine.stopping import stoppable\n"
        "from lpp.store.terminal.progress import SHOWN\n"
        "with stoppable(8, 0.1, SHOWN) as stop:\n"
        "    stop.begin(2)\n"
        "    print('begun', flush=True)\n"
        "    libc = ctypes.CDLL(None)\n"
        "    mutex = ctypes.create_string_buffer(64)\n"
        "    libc.pthread_mutex_lock(mutex)\n"
        "    libc.pthread_mutex_lock(mutex)\n"  # waits for itself, whatever signals arrive
    )
    process = scripted(script)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines() == [
        "Stopping after shard 3 of 8 (0.1 s at most); again to stop at once.",
        "0.1 s have passed: stopping at once.",
        "Interrupted. Everything committed so far stays; the same command resumes.",
    ]


@pytest.mark.slow
def test_a_second_request_that_a_library_wraps_is_no_error() -> None:
    script = (
        "import time\n"
        "from lpp.capture.engine.stopping import stoppable\n"
        "from lpp.store.terminal.progress import SHOWN\n"
        "with stoppable(8, 60, SHOWN) as stop:\n"
        "    stop.begin(2)\n"
        "    print('begun', flush=True)\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ValueError('no such model')\n"
    )
    process = scripted(script)
    process.send_signal(signal.SIGTERM)
    until(process, "Stopping")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_a_request_that_was_dropped_while_loading_still_counts() -> None:
    def load_and_capture() -> None:
        with contextlib.suppress(KeyboardInterrupt):  # as Python does in a callback from C
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        with stoppable(8, 60):
            raise AssertionError("a shard would begin")

    with pytest.raises(KeyboardInterrupt), polite_ends():
        load_and_capture()
    with stoppable(8, 60) as stop:  # another command in this process
        assert stop.begin(0)


def test_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable(1, 1.0) as stop:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert not stop.requested
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


CLOSES_SLOWLY = """
import sys, time
from lpp.capture.engine.prepare import Prepared

close = Prepared.close

def slowly(prepared):
    print("closing", file=sys.stderr, flush=True)
    time.sleep(2)
    close(prepared)

Prepared.close = slowly
from lpp.store.terminal.entry import capture
sys.argv[0] = "lpp-capture"
capture()
"""


@pytest.mark.slow
def test_a_request_while_the_model_closes_leaves_a_complete_run(
    folder: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSES_SLOWLY, "run", *OPTIONS, f"--store={tmp_path / 'lpp'}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
    )
    until(process, "closing")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Interrupted" in err) == (0, False)
    assert err.startswith("Stopping: every shard is committed, the model is closing (60 s at most)")
    assert f"({only(tmp_path / 'lpp').id}) is complete." in out


def test_no_shard_begins_after_a_request() -> None:
    stop = Stop()
    assert stop.begin(4)
    assert stop.request() == 4
    assert not stop.begin(5)
    assert stop.request() == 4
