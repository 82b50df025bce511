"""Heads that captures keep give the model's own logits again, for every family and every kind."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from backend_contract import torch_backend
from click.testing import CliRunner, Result
from s3_server import S3
from sealed import reseal
from stored import object_path
from torch import nn

from lpp.analyze.cli.command import main as analyze
from lpp.analyze.logits.proof import check_logits
from lpp.capture.cli.command import main
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.heads import keep_head
from lpp.capture.engine.run import capture_into
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, open_store
from lpp.store.errors import FormatError
from lpp.store.objects.locate import objects_at
from lpp.store.shared.heads import commit_head
from lpp.store.shared.logits import HeadContent
from lpp.store.shared.logits_proof import LogitsCheck
from lpp.store.shared.matrices import Matrix

SMALL: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "scale": ("CohereConfig", {**SMALL, "logit_scale": 0.0625}),
    "divisor": ("GraniteConfig", {**SMALL, "logits_scaling": 8.0}),
    "bias": ("PhiConfig", SMALL),
    "tied": ("LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
}
"""What no family of the other tests has."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(f"the dog {n} and the fox {n * 7} " * 4 for n in range(8)))
    return path


@pytest.fixture(scope="module")
def other_folder(
    tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`other_folder("bias")`: the folder of one of `OTHERS`."""

    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp("others") / name
        config, settings = OTHERS[name]
        torch.manual_seed(len(name))
        model = transformers.AutoModelForCausalLM.from_config(
            getattr(transformers, config)(**settings)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


def request_of(folder: Path, corpus: Path, **changes: Any) -> CaptureRequest:
    request = CaptureRequest(
        model=ModelSpec(id=str(folder), dtype="float32"),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=8, min_bytes=0),
        context=40,
        sites=("embed", "final"),
        shard_bytes=40_000,
        keep_head="yes",
    )
    return replace(request, **changes)


def captured(store: Any, request: CaptureRequest) -> Run:
    done = capture_into(store, request)
    return open_store(store).runs[done.run]


def checked(run: Run) -> LogitsCheck:
    check = check_logits(run)
    assert check is not None
    return check


def names(store: Path, folder: str) -> list[str]:
    """What lies in a folder of the store, where there is one."""
    return sorted(path.name for path in (store / folder).glob("*"))


def record_of(store: Path, folder: str = "heads") -> dict[str, Any]:
    """The record of the only directory in a folder of the store."""
    (name,) = names(store, folder)
    record: dict[str, Any] = json.loads((store / folder / name / "COMMIT.json").read_text())
    return record


def within(check: LogitsCheck, dtype: str) -> bool:
    """Whether logits are those of the model; 1e-4 nats where no product lies on an edge."""
    close = max(check.entropy, check.log_z) < 1e-4
    return not check.problem and (close or dtype != "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_gives_its_logits_again(
    family: str,
    dtype: Any,
    tiny_folder: Callable[[str], Path],
    corpus: Path,
    tmp_path: Path,
) -> None:
    model = ModelSpec(id=str(tiny_folder(family)), dtype=dtype)
    run = captured(tmp_path / "s", request_of(tiny_folder(family), corpus, model=model))
    check = checked(run)
    assert check.tokens > 200
    assert within(check, dtype), str(check)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OTHERS)
def test_scales_biases_and_tied_matrices_are_kept(
    name: str, dtype: Any, other_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    folder = other_folder(name)
    model = ModelSpec(id=str(folder), dtype=dtype)
    check = checked(captured(tmp_path / "s", request_of(folder, corpus, model=model)))
    assert within(check, dtype), str(check)
    record = record_of(tmp_path / "s")
    assert record["scale"] == ("0.0625" if name == "scale" else None)
    assert record["divisor"] == ("8" if name == "divisor" else None)
    arrays = record_of(tmp_path / "s", "matrices")["objects"]
    assert ("matrix.zarr/bias/c/0/0" in arrays) == (name == "bias")


Usage = namedtuple("Usage", "total used free")

# what is kept, and when


@pytest.fixture
def command(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> Callable[..., Result]:
    """`command("--keep-head=no")`: capture a tiny Gemma 2 into `lpp`, some 300 tokens."""

    def run(*words: str, store: Any = tmp_path / "lpp") -> Result:
        given = [f"--model={tiny_folder('gemma2')}", f"--corpus={corpus}", f"--store={store}"]
        given += ["--prompts=8", "--min-bytes=0", "--context=40", *words]
        done = CliRunner().invoke(main, ["run", *given])
        assert done.exit_code == 0, done.output
        return done

    return run


def verify(store: Path) -> Result:
    return CliRunner().invoke(analyze, ["verify", str(store)])


def test_a_head_is_kept_unless_it_is_not_wanted_or_of_no_use(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    for words in (["--keep-head=no"], ["--sites=block.1"]):
        assert "head:" not in command(*words).stderr
    assert names(tmp_path / "lpp", "heads") == []
    assert "head: 131 x 48 float32, 25.2 kB, kept once" in command().stderr
    assert "head:" not in command("--sites=final,block.1").stderr  # the same model: it is there
    assert len(names(tmp_path / "lpp", "heads")) == 1


@pytest.mark.parametrize(("free", "kept"), [(252_000, True), (251_000, False)])
def test_a_head_larger_than_the_rows_takes_a_tenth_of_the_free_disk_unasked(
    command: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    kept: bool,
) -> None:
    few = ("--sites=final", "--context=10")  # 15.4 kB of rows, 25.2 kB of a head
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(free, 0, free))
    said = command(*few).stderr
    why = "head: left out (25.2 kB; 251 kB are free): without it `diff` has no KL"
    assert (why in said) is not kept
    assert len(names(tmp_path / "lpp", "matrices")) == kept
    command(*few, "--keep-head=yes")
    assert record_of(tmp_path / "lpp")["softcap"] == "0.3"


@pytest.mark.slow
def test_repeating_the_command_writes_a_head_that_is_missing(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    store = tmp_path / "lpp"
    command("--keep-head=no")
    assert command("--dry-run").stdout.count("25.2 kB of them the head") == 1
    assert "head: 131 x 48" in command().stderr
    assert "prepare" not in command().stderr  # known from the note: no model is loaded
    for folder in ("heads", "matrices"):
        before = record_of(store, folder)
        shutil.rmtree(store / folder)
        assert "head: 131 x 48" in command().stderr
        assert record_of(store, folder).keys() == before.keys()
        assert verify(store).exit_code == 0
    (run,) = open_store(store).runs.values()
    assert checked(run).problem == ""


def test_of_several_processes_the_first_keeps_the_head(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    assert "head: 131 x 48" in command("--part=1/2").stderr
    assert "head:" not in command("--part=0/2").stderr
    assert verify(tmp_path / "lpp").exit_code == 0


def test_models_that_share_their_unembedding_share_its_matrix(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_folder("llama"), folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    model.save_pretrained(folder)
    store = tmp_path / "s"
    for one in (tiny_folder("llama"), folder):
        assert within(checked(captured(store, request_of(one, corpus))), "float32")
    assert len(names(store, "heads")) == 2
    assert len(names(store, "matrices")) == 1


def test_a_head_in_a_bucket(
    s3: S3, tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    request = request_of(tiny_folder("gpt2"), corpus)
    run, local = captured(s3.url, request), captured(tmp_path / "s", request)
    rows = np.concatenate(list(run.hidden("final")))[:5]
    ours, theirs = run.head(), local.head()
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours.logits(rows), theirs.logits(rows))
    assert within(checked(run), "float32")


# damage


def test_verify_tells_how_close_the_logits_are(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    command()
    done = verify(tmp_path / "lpp")
    assert (done.exit_code, done.stdout) == (0, "1 run, 5 sites, every byte as committed\n")
    assert "logits from final and the head: 256 tokens, entropy within " in done.stderr


def other_softcap(store: Path) -> None:
    (name,) = names(store, "heads")

    def change(record: dict[str, Any]) -> None:
        record["softcap"] = "0.31"

    reseal(store / "heads" / name, change)


def other_matrix(store: Path) -> None:
    """Another matrix of the same shape in its place, all hashes right."""
    (run,) = open_store(store).runs.values()
    head = run.head()
    assert head is not None
    matrix = Matrix(dtype="float32", weight=np.roll(head.weight, 1, axis=0))
    content = HeadContent(matrix=matrix, steps=head.steps)
    shutil.rmtree(store / "heads")
    commit_head(objects_at(store), run.plan, content)


@pytest.mark.parametrize("change", [other_softcap, other_matrix])
def test_verify_finds_a_head_that_is_not_the_models(
    change: Any, command: Callable[..., Result], tmp_path: Path
) -> None:
    command()
    change(tmp_path / "lpp")
    done = verify(tmp_path / "lpp")
    (name,) = names(tmp_path / "lpp", "heads")
    assert done.exit_code == 1
    assert done.stdout.startswith(f"heads/{name}: ")
    shutil.rmtree(tmp_path / "lpp/heads" / name)  # as the message says
    command()
    assert verify(tmp_path / "lpp").exit_code == 0


def test_a_damaged_matrix_is_removed_and_written_again(
    command: Callable[..., Result], tmp_path: Path
) -> None:
    store = tmp_path / "lpp"
    command()
    (name,) = names(store, "matrices")
    file = object_path(store / "matrices" / name, "matrix.zarr/weight/c/0/0")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    (run,) = open_store(store).runs.values()
    with pytest.raises(FormatError, match=r"lpp-capture repair .* removes the directory"):
        run.head()
    assert sum(len(rows) for rows in run.hidden("final")) > 100  # runs are read all the same
    done = verify(store)
    assert done.exit_code == 1
    assert done.stdout == f"{file.relative_to(store)}: altered: its checksum does not match\n"
    repaired = CliRunner().invoke(main, ["repair", str(store), "--dry-run"])
    assert repaired.exit_code == 1
    repaired = CliRunner().invoke(main, ["repair", str(store)])
    assert repaired.exit_code == 0
    assert f"its matrix matrices/{name} is missing" in repaired.stdout
    assert "repeat the `lpp-capture run` commands" in repaired.stdout
    assert names(store, "heads") == names(store, "matrices") == []
    assert verify(store).exit_code == 0
    command()
    assert names(store, "matrices") == [name]


# heads that are no plain matrix


def of_model(model: Any) -> HeadContent | str:
    return torch_backend(model).head()


def test_a_head_that_is_offloaded_is_asked_for(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    from accelerate import disk_offload

    whole = tiny_model("gemma2")
    model = type(whole)(whole.config)
    model.load_state_dict(whole.state_dict())
    disk_offload(model.eval(), str(tmp_path), execution_device=torch.device("cpu"))
    assert model.get_output_embeddings().weight.is_meta
    found, plain = of_model(model), of_model(whole)
    assert isinstance(found, HeadContent)
    assert isinstance(plain, HeadContent)
    assert found.steps == plain.steps
    np.testing.assert_array_equal(found.matrix.weight, plain.matrix.weight)


class Adapter(nn.Module):
    """A linear layer with a low-rank part beside it, as LoRA has it."""

    def __init__(self, layer: nn.Linear, bend: float = 0.0) -> None:
        super().__init__()
        self.layer, self.bend = layer, bend
        width = layer.in_features
        self.down, self.up = nn.Linear(width, 4, bias=False), nn.Linear(4, len(layer.weight))
        self.weight, self.out_features = layer.weight, layer.out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.layer(rows) + self.up(self.down(rows))
        return z + self.bend * z.square()


@pytest.mark.parametrize("bend", [0.0, 0.05])
def test_a_head_with_an_adapter_is_kept_as_one_matrix_where_that_is_all_it_does(
    bend: float, tiny_model: Callable[[str], Any]
) -> None:
    whole = tiny_model("llama")
    model = type(whole)(whole.config)
    model.load_state_dict(whole.state_dict())
    torch.manual_seed(3)
    adapter = Adapter(model.lm_head, bend)
    model.lm_head = adapter
    found = of_model(model.eval())
    if bend:
        assert found == "no plain matrix gives the logits of Adapter"
        return
    assert isinstance(found, HeadContent)
    merged = adapter.layer.weight + adapter.up.weight @ adapter.down.weight
    np.testing.assert_allclose(found.matrix.weight, merged.detach(), atol=1e-6)
    assert found.matrix.bias is not None
    np.testing.assert_allclose(found.matrix.bias[:, 0], adapter.up.bias.detach(), atol=1e-6)


def test_a_head_that_cannot_be_kept_stops_nothing(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    request = request_of(tiny_folder("llama"), corpus)
    run = captured(tmp_path / "s", replace(request, keep_head="no"))

    class Without:
        def head(self) -> str:
            return "it is a secret"

    kept = keep_head(tmp_path / "s", run.plan, request, Without())  # type: ignore[arg-type]
    assert (kept.lines, kept.directories) == (("head: left out (it is a secret)",), ())
    assert run.head() is None
    assert check_logits(run) is None
