"""What every test shares."""

import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from s3_server import S3
    from warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "http://127.0.0.1:9"
os.environ["AWS_ENDPOINT_URL"] = NOWHERE  # no test may ask a real object store
# In the background of a script, or under nohup, these are ignored: what the tests start would
# inherit that.
for ignored, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, handler)


# A disk may take 10 ms for each `fsync`, and the suite asks for tens of thousands. No test cuts the
# power; those of a disk that loses what was not synced count the calls (`faulty_disk`).
os.fsync = lambda fd: None

# No test fails for the time that it takes: a busy machine would fail it.
settings.register_profile("lpp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lpp")


LONG_FIRST = (
    *("test_probe_run.py", "test_readme.py", "test_cloze_examples.py", "test_parallel.py"),
    *("test_notebook.py", "test_end_to_end.py", "test_ray.py", "test_odd_paths.py"),
    *("test_mutated_questions.py", "test_training.py", "test_ci_gate.py", "test_demo.py"),
    *("test_benchmarks.py", "test_packaging.py", "test_site.py", "test_kills.py"),
    *("test_two_engines.py", "test_commands_vllm.py"),
)
"""Files that take longest: started last, one of two workers would wait for them. The first two want
different things: one worker would wait for the other to make `documented_store`."""

APART = ("tests/test_readme.py",)
"""Files whose tests share nothing but that store: workers may take the tests one by one."""

WITH_REAL_PARTS = {
    *("documented_store", "capture_packaged", "start_packaged", "packaged"),
    *("s3_server", "browser"),
}
"""Fixtures of the packaged model, of servers and of a browser: what asks for them is slow."""


@pytest.hookimpl(tryfirst=True)  # before the markers are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several workers take a file at a time: the longest first, by its number of slow tests."""
    ranks = {name: rank for rank, name in enumerate(LONG_FIRST)}
    weights: Counter[Path] = Counter()
    for item in items:
        if isinstance(item, pytest.Function) and WITH_REAL_PARTS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        weights[item.path] += 10 if item.get_closest_marker("slow") else 1
    items.sort(
        key=lambda item: (ranks.get(item.path.name, len(ranks)), -weights[item.path], item.path)
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Under LPP_NO_WARNING every warning is an error, but those that a later line takes out."""
    if os.environ.get("LPP_NO_WARNING"):
        config.addinivalue_line("filterwarnings", "error")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for the tests of `APART`."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else str(super()._split_scope(nodeid))

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def paper() -> Path:
    """Folder of the published tables."""
    return ROOT / "tests" / "published"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """Port of an S3 server on loopback."""
    from s3_server import serving

    with serving() as port:
        yield port


@pytest.fixture
def s3(s3_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator["S3"]:
    """A fresh bucket behind a proxy that fails on command; the environment reaches it."""
    from s3_server import S3, Proxy, make_bucket

    from lpp.store.objects.bucket import bucket_of

    found = S3(bucket=f"lab-{secrets.token_hex(4)}", proxy=Proxy(s3_server), server=s3_server)
    make_bucket(s3_server, found.bucket)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    bucket_of.cache_clear()
    found.proxy.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under LPP_NO_SKIP a skipped test fails."""
    report = yield
    if report.skipped and os.environ.get("LPP_NO_SKIP") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where it should have run: {report.longrepr}"
    return report


TERMINAL = {"COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
"""What commands see: 80 columns, and no hub."""


def command(
    *words: object, programs: Path = Path(sys.executable).parent, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one of the three programs as a user does, on 80 columns and without a hub."""
    program, *arguments = map(str, words)
    return subprocess.run(
        [str(programs / program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **TERMINAL, **environment},
    )


@pytest.fixture(scope="session")
def run_command(warm_python: "WarmPython") -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_command("lpp-sql", store, "SELECT 1")` -> the completed fork of a warm process."""
    return partial(command, programs=warm_python.programs)


def capture_words(root: Path, *extra: object) -> list[str]:
    """What follows `lpp-capture`, of the packaged model on the built-in passages."""
    from lpp.capture.models.gguf import packaged_model

    words = ("run", "--model", packaged_model(), "--corpus", "pydoc", "--store", root, *extra)
    return [str(word) for word in words]


@pytest.fixture(scope="session")
def start_packaged() -> Callable[..., "subprocess.Popen[str]"]:
    """`start_packaged(root, "--prompts", 4)` -> the process, running."""

    def start(root: Path, *extra: object) -> "subprocess.Popen[str]":
        program = str(Path(sys.executable).with_name("lpp-capture"))
        return subprocess.Popen(
            [program, *capture_words(root, *extra)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **TERMINAL},
        )

    return start


@pytest.fixture(scope="session")
def capture_packaged() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`capture_packaged(root, "--prompts", 4)` -> what `run_command` gives of the same command.

    In the tests' own process: most of what a small capture takes is importing transformers.
    """
    return capture_here


def capture_here(root: Path, *extra: object) -> subprocess.CompletedProcess[str]:
    """The command line, called."""
    from lpp.capture.cli.command import main

    words = capture_words(root, *extra)
    done = CliRunner(env=TERMINAL).invoke(main, words)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def warm_python() -> Iterator["WarmPython"]:
    """New processes without the seconds that imports take (`warm_python`)."""
    from warm_python import WarmPython

    with TemporaryDirectory(prefix="lpp-") as folder:  # a socket's path has at most 107 bytes
        server = WarmPython(Path(folder), TERMINAL)
        yield server
        server.close()


@pytest.fixture(scope="session")
def documented_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store as the demo leaves it: the packaged model, its untrained twin, a rounded copy,
    profiles; of thirteen sites, where the demo has all. Made once, whatever the number of workers.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root = shared / "documented" / "demo"
    with FileLock(f"{shared}/documented.lock"):
        if not (root / "profiles.duckdb").exists():
            _make_documented(root)
    return root


def _make_documented(root: Path) -> None:
    from lpp.capture.cli.demo import capture_rounded, demo_request
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.models.gguf import packaged_model

    blocks, prompts = (1, *range(3, 31, 3)), 12
    sites = ("embed", *(f"block.{k}" for k in blocks), "final")
    words = ("--prompts", prompts, "--sites", ",".join(sites))
    for more in (("--keep-head", "yes"), ("--untrained-seed", 0)):
        done = capture_here(root, *words, *more)
        assert done.returncode == 0, done.stderr
    request = demo_request(packaged_model(), None)
    capture_rounded(root, replace(request, selection=Selection(prompts=prompts), sites=sites))
    done = command("lpp-analyze", "profile", root)
    assert done.returncode == 0, done.stderr
