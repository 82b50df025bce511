"""The executors' options, and what the driver decides without a cluster."""

import re
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.prepare import prepare
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.capture.ray import executor as ray_executor
from lpp.capture.ray.actor import Loaded
from lpp.store import create_store
from lpp.store.errors import ConflictError, ErrorKind, InputError, MachineError
from lpp.store.process import cluster
from lpp.store.process.packages import install_command
from lpp.store.shared.vocabularies import holds_vocabulary

RUN = ("run", "--model", "m", "--corpus", "pydoc", "--store", "lpp")


@pytest.mark.parametrize(
    ("main", "words", "says"),
    [
        (capture, (*RUN, "--address", "auto"), "needs --executor ray"),
        (capture, (*RUN, "--workers", "2"), "needs --executor ray"),
        (analyze, ("profile", "lpp", "--address", "auto"), "needs --executor ray"),
        (analyze, ("layers", "lpp", "--executor", "slurm"), "'local', 'ray'"),
    ],
)
def test_options_of_ray_without_ray_are_refused(
    main: Any, words: tuple[str, ...], says: str
) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert says in done.stderr


def test_without_the_package_a_command_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MachineError, match=re.escape(install_command("ray"))) as caught,
        cluster.cluster(None),
    ):
        pass
    assert caught.value.kind is ErrorKind.NO_PACKAGE
    words = [*RUN[:-1], str(tmp_path / "lpp"), "--executor", "ray", "--workers", "1"]
    done = CliRunner().invoke(capture, words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert install_command("ray") in done.stderr


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "host:port", ":6379"])
def test_an_address_that_is_none_is_told_the_form(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="HOST:PORT"), cluster.cluster(address):
        pass


def test_where_nobody_listens_is_told_at_once() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(MachineError, match="no Ray cluster there") as caught,
        cluster.cluster("127.0.0.1:9"),
    ):
        pass
    assert caught.value.kind is ErrorKind.UNREACHABLE


def test_hands_are_whole_in_order_and_small_towards_the_end() -> None:
    queue, hands = deque(range(21)), []
    while queue:
        hands.append(ray_executor._lease(queue, workers=2))
    assert [k for hand in hands for k in hand] == list(range(21))
    assert [len(hand) for hand in hands] == [4, 4, 4, 3, 2, 1, 1, 1, 1]
    assert ray_executor._lease(queue, workers=2) == ()


def request_for(model: Path) -> CaptureRequest:
    return CaptureRequest(
        model=ModelSpec(id=str(model)),
        corpus=CorpusSpec(name="pydoc"),
        selection=Selection(prompts=2),
        context=8,
    )


def test_an_actor_finds_the_files_from_another_folder(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("llama")
    monkeypatch.chdir(folder.parent)
    there = ray_executor._found_from_anywhere(request_for(Path(folder.name)))
    assert there.model.id == str(folder)
    assert there.corpus.name == "pydoc"
    hub = replace(there, model=ModelSpec(id="lab/model"))
    assert ray_executor._found_from_anywhere(hub).model.id == "lab/model"


def test_a_machine_that_comes_to_another_plan_ends_the_capture(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    ready = prepare(request_for(tiny_folder("llama")))
    lengths = ready.prompts["n_tokens"].to_numpy()
    pool = object.__new__(ray_executor._Pool)
    pool.loaded = None
    pool._compare(Loaded(plan=ready.plan, lengths=lengths))
    pool._compare(Loaded(plan=ready.plan, lengths=lengths))
    other = replace(ready.plan, model=replace(ready.plan.model, weights="other"))
    with pytest.raises(ConflictError, match=r"model\.weights") as caught:
        pool._compare(Loaded(plan=other, lengths=lengths))
    assert caught.value.kind is ErrorKind.PLAN_DIFFERS
    create_store(tmp_path / "store")
    actor = ray_executor_actor(tmp_path / "store", request_for(tiny_folder("llama")))
    assert actor.load().plan.hash == ready.plan.hash
    with pytest.raises(ValueError, match="plan"):
        actor.open(other.hash)
    assert not (tmp_path / "store" / "runs").exists()


def ray_executor_actor(root: Path, request: CaptureRequest) -> Any:
    """What runs on a card, in this process."""
    from lpp.capture.ray.actor import CaptureActor

    return CaptureActor(root, request, "worker", 1)


def test_an_actor_captures_what_it_is_handed_and_no_more(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    root = tmp_path / "store"
    create_store(root)
    actor = ray_executor_actor(root, replace(request_for(tiny_folder("llama")), shard_bytes=1))
    loaded = actor.load()
    actor.open(loaded.plan.hash)
    found = actor.capture((1,))
    assert (found.written, found.lost_race) == ({1}, frozenset())
    assert len(found.notes) == 1
    assert actor.capture((1,)).written == {1}  # committed by itself before: nothing is done again
    actor.close()
    assert holds_vocabulary(root, loaded.plan.tokenizer.fingerprint)
    (run,) = (root / "runs").iterdir()
    assert [path.name for path in (run / "shards").iterdir()] == ["00001"]
