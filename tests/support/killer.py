"""Kill a capture, a repair, an analysis or a database build at random moments, many times, cheaply.

Run as a script in its own process: `python killer.py JOB FOLDER MODEL KILLS SEED`. It imports
everything once and forks a child for each attempt, because starting Python and torch would take
longer than the work. Each round has a new store: its job is killed, once or several times, and then
runs to its end. The store must equal that of an undisturbed job. A reader polls the store all the
time. The script prints a line of JSON at the end. `kill_often` runs it.
"""

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 240.0
"""Time limit for one child in seconds: a deadlock must not look like a slow machine for ever."""

CAPTURES: Final[dict[str, dict[str, Any]]] = {
    "capture": {},
    "continue": {"texts": 80, "tokens": 12, "shard_bytes": 120_000},
    "vllm": {"backend": "vllm", "texts": 120},
}
"""Settings of the capture jobs."""

Job = Callable[[Path], None]


def child(work: Callable[[], None], log: Path) -> int:
    """Fork, do `work` and exit; returns the child's pid. What it prints goes to `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, within: float) -> int | None:
    """How a child ended, negative for a signal; None if it still runs after `within` seconds."""
    until = time.monotonic() + within
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.0005)


def killed(pid: int, within: float, awaited: Callable[[], bool] | None = None) -> bool:
    """Kill a child after `within` seconds; returns False if it had already ended.

    The time starts when `awaited` is true, if it is given.
    """
    code, until = None, time.monotonic() + PATIENCE
    while awaited is not None and code is None and not awaited() and time.monotonic() < until:
        code = ended(pid, 0.005)
    code = ended(pid, within) if code is None else code
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = ended(pid, PATIENCE)
    assert code in (0, -signal.SIGKILL), f"a job that was to be killed ended with {code}"
    return code != 0


def capture_job(model: Path, folder: Path, **settings: Any) -> Job:
    """A capture of twelve texts in about five shards."""
    import torch

    from lpp.capture.corpus.selection import Selection
    from lpp.capture.engine.prepare import prepare
    from lpp.capture.engine.run import capture_into
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, ContinuationSpec, CorpusSpec

    torch.set_num_threads(1)
    texts = folder / "texts.txt"
    count, tokens = settings.pop("texts", 12), settings.pop("tokens", None)
    if tokens is not None:
        settings["continuation"] = ContinuationSpec(tokens=tokens, temperature=0.8, seed=3)
    texts.write_text("\n\n".join("the dog and the fox " * (1 + n % 5) for n in range(count)))
    request = CaptureRequest(
        model=ModelSpec(id=str(model)),
        corpus=CorpusSpec(name=str(texts)),
        selection=Selection(prompts=count, min_bytes=0),
        context=30,
        sites=("embed", "final"),
        batch_tokens=64,
        **{"shard_bytes": 30_000, **settings},
    )
    if request.backend == "vllm":
        # an engine does not survive a fork; importing it is half of its start
        from lpp.capture.backends.vllm.installed import check_vllm

        check_vllm(quiet=True)
        importlib.import_module("vllm.v1.engine.llm_engine")
        importlib.import_module("lpp.capture.backends.vllm.backend")
    else:
        prepare(request, quiet=True).close()  # children need not import this again

    def capture(root: Path) -> None:
        # torch creates its threads again in a fork, and two threads that first use it at once
        # collide there ("Invalid thread pool!"): so one thread uses it here first
        torch.set_num_threads(1)
        capture_into(root, request)

    return capture


def repair_job(model: Path) -> Job:
    """A repair of every shard that is damaged."""

    def repair(root: Path) -> None:
        import torch

        from lpp.capture.engine.repair import look_at, repair_run
        from lpp.capture.plan.from_plan import RepairOptions
        from lpp.store import open_store

        torch.set_num_threads(1)
        (run,) = open_store(root).runs.values()
        damage, _ = look_at(run)
        found = repair_run(run, damage, RepairOptions(model=str(model)))
        assert found.whole, found

    return repair


def damage_shards(root: Path) -> None:
    """Damage every shard: by turns its tokens, its rows and its record."""
    for number, shard in enumerate(sorted(root.glob("runs/*/shards/[0-9]*"))):
        name = ("tokens.arrow", "final/c/0/0", "COMMIT.json")[number % 3]
        (path,) = shard.glob(name) if number % 3 == 2 else shard.glob(f"**/{name}")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)


def attempts(root: Path) -> int:
    """Number of attempts at shards that a store holds at this moment, committed or not."""
    return sum(1 for _ in root.glob("runs/*/shards/[0-9]*/[0-9a-f]*"))


def analysis_job(root: Path) -> None:
    """Profiles of every site, stored and written to the database."""
    from lpp.analyze.tables.build import build_database

    build_database(root)


def database_job(root: Path) -> None:
    """Only the database, from tables that take no time."""
    from lpp.analyze.tables.database import store_tables
    from lpp.sql import build

    tables = store_tables(root)
    for _ in range(3):
        build(root, tables)


def files_of(root: Path) -> dict[str, str]:
    """Checksum of every file of a store except the database, which contains a random name.

    A writer that is killed after its record exists may leave earlier attempts, and one that tests
    whether it may write may leave a file beside `lpp.json`, until the next sweep.
    """
    from stored import stored_objects

    from lpp.store import open_store
    from lpp.store.committed.checked import open_checked
    from lpp.store.committed.commit import sweep
    from lpp.store.format.commit_record import ContinuationRecord
    from lpp.store.format.keys import CONTINUATIONS_KEY
    from lpp.store.runs.write import sweep_run

    store = open_store(root)
    store.objects.sweep()
    for run in store.runs.values():
        sweep_run(run)
    for entry in store.objects.entries(CONTINUATIONS_KEY):
        block = store.objects.below(f"{CONTINUATIONS_KEY}/{entry.name}")
        sweep(block, {open_checked(block, ContinuationRecord).record.base})
    return {
        key: hashlib.sha256(data).hexdigest()
        for key, data in stored_objects(root).items()
        if key != "profiles.duckdb"
    }


def committed(root: Path) -> int:
    """Number of committed shards of a store at this moment."""
    return sum(1 for _ in root.glob("runs/*/shards/[0-9]*/COMMIT.json"))


def tables_of(root: Path, into: Path) -> None:
    """Every value of the database of a store, by table."""
    import duckdb

    from lpp.sql.schema import TABLES

    with duckdb.connect(str(root / "profiles.duckdb"), read_only=True) as database:
        found = {
            name: repr(database.execute(f'SELECT * FROM "{name}" ORDER BY ALL').fetchall())
            for name in TABLES
        }
    into.write_text(json.dumps(found))


def reader(root: Path, report: Path) -> None:
    """Read the store in an endless loop; anything incomplete is written to `report`."""
    from lpp.store import open_store
    from lpp.store.errors import ErrorKind, FormatError

    while True:
        try:
            runs = list(open_store(root).runs.values())
        except FormatError as error:
            if error.kind is not ErrorKind.NOT_A_STORE:
                raise
            continue
        for run in runs:
            wrong = [str(p) for p in run.verify() if "not committed" not in p.what]
            if wrong:
                report.write_text("\n".join(wrong))
                return


class Rounds:
    """One job, killed repeatedly."""

    def __init__(self, name: str, folder: Path, model: Path, seed: int) -> None:
        importlib.import_module("lpp.analyze.tables.build")
        importlib.import_module("lpp.store.runs.read")
        self.folder, self.rng = folder, random.Random(seed)
        capture = capture_job(model, folder, **CAPTURES.get(name, {}))
        jobs = {"analysis": analysis_job, "database": database_job, "repair": repair_job(model)}
        self.job = jobs.get(name, capture)
        self.repairs = name == "repair"
        self.database = name in ("analysis", "database")
        self.starts_slowly = name == "vllm"
        self.before: Path | None = None
        if self.database or self.repairs:
            self.before = folder / "captured"
            self.do(lambda: capture(folder / "captured"))
        whole = files_of(folder / "captured") if self.repairs else {}
        if self.repairs:
            damage_shards(folder / "captured")
        undisturbed = self.new("undisturbed")
        start = time.monotonic()
        self.do(lambda: self.job(undisturbed))
        self.seconds = time.monotonic() - start
        self.expected = self.state(undisturbed)
        assert not self.repairs or self.expected == whole
        self.shards = committed(undisturbed)
        self.kills = 0
        self.inside = 0

    def new(self, name: str) -> Path:
        """The folder for the next store."""
        root = self.folder / name
        if self.before is not None:
            shutil.copytree(self.before, root)
        return root

    def do(self, work: Callable[[], None]) -> None:
        """Run `work` in a child to its end."""
        log = self.folder / "log"
        code = ended(pid := child(work, log), PATIENCE)
        if code is None:
            os.kill(pid, signal.SIGKILL)
        assert code == 0, f"ended with {code}: {log.read_text()[-3000:]}"

    def state(self, root: Path) -> Any:
        """Everything that must be the same after any number of kills."""
        tables = self.folder / "tables.json"
        if self.database:
            self.do(lambda: tables_of(root, tables))
            return files_of(root), json.loads(tables.read_text())
        return files_of(root)

    def round(self, number: int) -> None:
        """A new store, whose job is killed several times and then runs to its end."""
        root, log, report = self.new(str(number)), self.folder / "log", self.folder / "report"
        # of a store that is damaged, a reader says so
        watcher = None if self.repairs else child(lambda: reader(root, report), log)
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            pid = child(lambda: self.job(root), log)
            moment = self.rng.uniform(0, 1.05 * self.seconds)
            awaited = None
            if self.starts_slowly and self.rng.random() < 0.8:  # else most never begin
                some = self.rng.randint(committed(root), self.shards)
                moment, awaited = moment / 20, lambda some=some: committed(root) >= some
            if self.repairs:  # most of its time it loads the model: wait for its first attempts
                some = attempts(root) + self.rng.randint(1, self.shards)
                moment, awaited = moment / 30, lambda some=some: attempts(root) >= some
            self.inside += killed(pid, moment, awaited)
            self.kills += 1
        self.do(lambda: self.job(root))
        if watcher is not None:
            code = ended(watcher, 0)
            assert code is None, f"the reader ended with {code}: {log.read_text()[-3000:]}" + (
                report.read_text() if report.exists() else ""
            )
            os.kill(watcher, signal.SIGKILL)
            ended(watcher, PATIENCE)
        found = self.state(root)
        assert found == self.expected, f"round {number}: {_difference(found, self.expected)}"
        shutil.rmtree(root)


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, tuple):
        return "; ".join(map(_difference, found, expected))
    return str([k for k in {*found, *expected} if found.get(k) != expected.get(k)])


def kill_often(job: str, folder: Path, model: Path, kills: int, seed: int) -> dict[str, float]:
    """Run this script; returns its JSON. Raises AssertionError with what it found."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, __file__, job, folder, model, str(kills), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    name, folder, model, kills, seed = sys.argv[1:]
    rounds = Rounds(name, Path(folder), Path(model), int(seed))
    number = 0
    # a busy machine can be slow in the undisturbed job alone: then kills come after the end
    while rounds.kills < int(kills) or (not rounds.inside and rounds.kills < 5 * int(kills)):
        rounds.round(number)
        number += 1
    told = {"rounds": number, "kills": rounds.kills, "inside": rounds.inside}
    print(json.dumps(told | {"seconds": round(rounds.seconds, 2)}))


if __name__ == "__main__":
    main()
