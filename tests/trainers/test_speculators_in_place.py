"""speculators trains from a store: the same tensors, and the same draft model, as from its files.

Its generator asks vLLM for the states; here transformers computes them, and they are saved as the
files that its own backend reads. The trainer wants an accelerator: on a machine without one, its
device and `torch.accelerator.synchronize` are replaced, and nothing else. Its MTP trains only
verifiers that have MTP heads of their own, so that its data alone is compared.
"""

import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from exchanged import ids_of, write_run
from hs_connectors import FileTransfer, HiddenStatesTransfer
from safetensors.torch import load_file, save_file
from speculators import SpeculatorModel
from speculators.models.eagle3.data import shift_batch
from speculators.models.mtp.data import shift_batch_mtp
from speculators.train.dataloader import create_train_val_loaders
from stored import object_path
from transformers import LlamaConfig, LlamaForCausalLM

from lpp.capture import capture
from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.exchange.export import export
from lpp.store.exchange.import_states import import_states
from lpp.store.exchange.sample_order import read_by_groups
from lpp.store.exchange.speculators_backend import Order, StoreBackend, StoreTransfer
from lpp.store.feed.reader import RunSource

BLOCKS, VOCABULARY = 7, 600
ALGORITHMS = ("eagle3", "peagle", "dflash", "dflash2", "dspark", "xpress", "mtp")
PREPROCESS: dict[str, Any] = {
    **{"eagle3": shift_batch, "peagle": shift_batch, "mtp": shift_batch_mtp}
}
"""As in its `main`."""

DEFAULT_LAYERS = (2, 3, 4)
"""Of seven blocks: 2, L // 2, L - 3."""


class Files:
    """A verifier, the run of its states, the data set, and the files that a generator writes."""

    def __init__(self, root: Path) -> None:
        self.root, self.verifier = root, root / "verifier"
        torch.manual_seed(0)
        shape: dict[str, Any] = {
            **{"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128},
            **{"num_hidden_layers": BLOCKS, "num_attention_heads": 4, "num_key_value_heads": 2},
        }
        verifier: Any = LlamaForCausalLM(LlamaConfig(**shape))
        verifier.to(torch.bfloat16).save_pretrained(self.verifier)
        model = LlamaForCausalLM.from_pretrained(self.verifier, dtype=torch.bfloat16).eval()
        rng = np.random.default_rng(0)
        rows = []
        for length in rng.integers(20, 60, 40).tolist():
            mask = [int(t > length // 3) for t in range(length)]
            ids = rng.integers(0, VOCABULARY, length).tolist()
            rows.append({"input_ids": ids, "loss_mask": mask})
        # a prompt a batch: the files are of single prompts, and padding may round otherwise
        self.run = capture(
            model, None, rows, store=root / "store", context=64, batch_tokens=60, quiet=True
        )
        self.data = root / "data"
        export(self.run, "speculators", self.data, only_prompts=True)
        self.states = []
        for row in rows:
            last: list[torch.Tensor] = []
            hook = model.model.norm.register_forward_pre_hook(
                lambda _, args, last=last: last.append(args[0])
            )
            ids = torch.tensor([row["input_ids"]])
            with torch.inference_mode():
                hidden = model(ids, output_hidden_states=True).hidden_states
            hook.remove()
            self.states.append((ids[0], [*hidden[:-1], last[0]]))

    def generated(self, layers: tuple[int, ...], folder: Path) -> Path:
        """The file of each sample: id i is the state after i blocks, and the last one is before the
        final norm.
        """
        folder.mkdir()
        for number, (ids, hidden) in enumerate(self.states):
            states = torch.stack([hidden[k][0] for k in (*layers, BLOCKS)], dim=1)
            tensors = {"hidden_states": states.clone(), "token_ids": ids.clone()}
            save_file(tensors, folder / f"hs_{number}.safetensors")
        return folder

    def loaders(
        self, transfer: HiddenStatesTransfer, *, workers: int = 0, algorithm: str = "eagle3"
    ) -> tuple[Any, Any]:
        """Of its trainer, for training and validation."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pinned memory
            loaders: tuple[Any, Any] = create_train_val_loaders(
                data_path=str(self.data),
                total_seq_len=128,
                hidden_states_dtype=torch.bfloat16,
                transfer=transfer,
                vllm_endpoint="",
                on_missing="raise",
                verifier_name_or_path=str(self.verifier),
                request_timeout=1,
                max_retries=0,
                generation_validation_retries=0,
                max_consecutive_generation_failures=1,
                hidden_size=64,
                num_target_layers=0 if algorithm == "mtp" else len(DEFAULT_LAYERS),
                num_workers=workers,
                prefetch_factor=2,
                preprocess=PREPROCESS.get(algorithm),
            )
            return loaders

    def transfer(self, algorithm: str = "eagle3", **changes: Any) -> StoreTransfer:
        settings: dict[str, Any] = {
            "lpp_store": str(self.root / "store"),
            "lpp_run": "*",
            "speculator_type": algorithm,
            "target_layer_ids": None,
            "lpp_order": "uniform",
        }
        return StoreBackend.from_train_args(Namespace(**settings | changes), str(self.data))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with pytest.MonkeyPatch.context() as patch:
        # 16 rows, so that groups of 8 chunks have some three prompts
        patch.setattr("lpp.store.arrays.layout.CHUNK_BYTES", 16 * 64 * 2)
        yield Files(tmp_path_factory.mktemp("speculators"))


def test_these_are_all_algorithms() -> None:
    assert SpeculatorModel.registry is not None
    assert {*SpeculatorModel.registry} == {*ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_sample_and_batch_equals_that_of_its_files(
    algorithm: str, files: Files, tmp_path: Path
) -> None:
    layers = () if algorithm == "mtp" else DEFAULT_LAYERS
    theirs = FileTransfer(files.generated(layers, tmp_path / "hs"))
    ours = files.transfer(algorithm)
    for number in range(40):
        expected, given = theirs.get_cached(number), ours.get_cached(number)
        assert expected is not None
        assert given is not None
        assert given.keys() == expected.keys()
        for name, tensor in expected.items():
            assert given[name].dtype == tensor.dtype
            assert torch.equal(given[name], tensor)
    loaders = []
    for transfer in (theirs, ours):
        # workers are processes: what they are given is pickled
        workers = 2 if transfer is ours and algorithm == "eagle3" else 0
        train, val = files.loaders(transfer, workers=workers, algorithm=algorithm)
        loaders.append([*train, *val])
    assert len(loaders[0]) == len(loaders[1]) > 5
    for expected, given in zip(*loaders, strict=True):
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(given[name], value), name
            else:
                assert given[name] == value == 0  # samples that were dropped


def test_the_memory_of_states_is_used_again_once_no_sample_refers_to_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a thread that helped to decode may refer to the memory for a moment longer
    monkeypatch.setattr("lpp.store.arrays.reader.usable_cores", lambda: 1)
    ours = files.transfer()
    held = [ours.get_cached(number) for number in range(12)]
    for sample, (ids, hidden) in zip(held, files.states, strict=False):
        assert sample is not None
        layers = torch.stack([hidden[k][0] for k in (*DEFAULT_LAYERS, BLOCKS)], dim=1)
        assert torch.equal(sample["token_ids"], ids)
        assert torch.equal(sample["hidden_states"], layers)
    del held, sample
    places = set()
    for number in range(12):
        sample = ours.get_cached(number)
        assert sample is not None
        places.add(sample["hidden_states"].data_ptr())
    assert len(places) < 6


@pytest.mark.parametrize(("workers", "world"), [(0, 1), (2, 1), (0, 2)])
def test_by_groups_every_sample_comes_once_and_every_group_is_read_about_once(
    workers: int, world: int, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.exchange.speculators_backend.BUFFER_BYTES", 300_000)
    reads: list[tuple[int, int]] = []
    read = RunSource.read

    def counted(source: RunSource, first: int, end: int, out: Any) -> None:
        reads.append((first, end))
        read(source, first, end, out)

    monkeypatch.setattr(RunSource, "read", counted)
    epochs = []
    for epoch in (0, 1):
        seen: list[tuple[int, ...]] = []
        for rank in range(world):
            transfer = files.transfer(lpp_order="groups")
            loader, _ = files.loaders(transfer, workers=workers, algorithm="dspark")
            sampler = loader.batch_sampler
            sampler.num_replicas, sampler.rank = world, rank
            read_by_groups(loader)
            assert 1 < transfer.at_once < len({*transfer.groups}) < 20
            sampler.set_epoch(epoch)
            for samples, batch in zip(sampler, loader, strict=True):
                ids, documents = batch["input_ids"][0], batch["document_ids"][0]
                for k, sample in enumerate(samples.tolist()):
                    expected, hidden = files.states[sample]
                    assert torch.equal(ids[documents == k], expected)
                    layers = torch.cat([hidden[n][0] for n in DEFAULT_LAYERS], dim=-1)
                    assert torch.equal(batch["hidden_states"][0, documents == k], layers)
                seen += [(rank, *samples.tolist())]
        assert len({len([b for b in seen if b[0] == rank]) for rank in range(world)}) == 1
        samples_seen = [sample for _, *batch in seen for sample in batch]
        assert len(samples_seen) == len({*samples_seen})
        assert world > 1 or {*samples_seen} == {*range(36)}
        assert len(samples_seen) >= 36 - 6 * (world - 1)  # batches that other ranks lack
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    if not workers:
        assert len(reads) <= 2 * len({*reads}) + 4 * (world - 1)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["eagle3", "dspark"])
def test_its_trainer_makes_the_same_draft_model(
    algorithm: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speculators.train import trainer

    from lpp.store.exchange.train_speculators import main

    if not torch.accelerator.is_available():
        monkeypatch.setattr(trainer, "get_local_rank", lambda: "cpu")
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    hidden_states = files.generated(DEFAULT_LAYERS, tmp_path / "hs")
    weights = {}
    for backend, where in (
        ("file", ["--hidden-states-path", str(hidden_states)]),
        ("lpp", ["--lpp-store", str(files.root / "store"), "--lpp-order", "uniform"]),
    ):
        words = {
            "--verifier-name-or-path": files.verifier,
            "--speculator-type": algorithm,
            "--hidden-states-backend": backend,
            "--data-path": files.data,
            "--save-path": tmp_path / backend,
            "--on-missing": "raise",
            "--total-seq-len": 128,
            "--epochs": 1,
            "--num-workers": 0,
            "--optimizer": "adamw",
            "--draft-attn-impl": "sdpa",
            "--loss-implementation": "eager",
            "--hidden-states-dtype": "float32",  # autocast is of the accelerator
            "--mask-token-id": 5,
            "--max-anchors": 8,
        }
        arguments = [str(word) for pair in words.items() for word in pair]
        monkeypatch.setattr(sys, "argv", ["train", *arguments, *where])
        with warnings.catch_warnings(), torch._dynamo.config.patch(disable=True):
            warnings.simplefilter("ignore")
            main()
        (saved,) = (tmp_path / backend / "0").glob("*.safetensors")
        weights[backend] = load_file(saved)
    assert weights["file"].keys() == weights["lpp"].keys()
    for name, tensor in weights["file"].items():
        assert torch.equal(weights["lpp"][name], tensor), name


def test_rows_in_another_order_and_rows_that_are_no_prompts(files: Files, tmp_path: Path) -> None:
    from datasets import Dataset, load_from_disk

    rows = load_from_disk(str(files.data)).with_format(None).to_list()
    stranger = {"input_ids": [1, 2, 3], "loss_mask": [1, 1, 1], "seq_len": 3}
    Dataset.from_list([rows[7], stranger, rows[2]]).with_format("torch").save_to_disk(
        tmp_path / "d"
    )
    sites = ("block.2", f"block.{BLOCKS}")
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        transfer = StoreTransfer(files.run, sites, str(tmp_path / "d"))
    assert transfer.get_cached(1) is None
    for place, number in ((0, 7), (2, 2)):
        given = transfer.get_cached(place)
        assert given is not None
        assert given["token_ids"].tolist() == rows[number]["input_ids"]
        assert torch.equal(given["hidden_states"][:, 0], files.states[number][1][2][0])
    with pytest.raises(InputError, match="generates no states"):
        transfer.get_generated({})
    Dataset.from_list([stranger]).with_format("torch").save_to_disk(tmp_path / "e")
    with pytest.raises(InputError, match=r"none of 1 rows .* --only-prompts"):
        StoreTransfer(files.run, sites, str(tmp_path / "e"))


def test_a_prompt_that_was_set_aside_has_no_states(tmp_path: Path) -> None:
    from datasets import Dataset

    run = write_run(tmp_path / "s", aside=(1,))
    rows = [{"input_ids": ids_of(k), "seq_len": len(ids_of(k))} for k in range(3)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "d")
    for order in get_args(Order):
        transfer = StoreTransfer(run, ("block.2", "block.6"), str(tmp_path / "d"), order)
        missing = [transfer.get_cached(k) is None for k in range(3)]
        assert missing == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lpp_store": None}, "name it with --lpp-store"),
        ({"target_layer_ids": [2, 9]}, "layer 9 of speculators: a model of 7 blocks has 0 to 7"),
        ({"lpp_run": "other"}, "other"),
    ],
)
def test_options_that_do_not_fit(files: Files, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        files.transfer(**changes)


def test_an_altered_row_stops_the_trainer(files: Files, tmp_path: Path) -> None:
    copy = shutil.copytree(files.root / "store", tmp_path / "store")
    shard = copy / "runs" / files.run.id / "shards" / "00000"
    chunks = object_path(shard, "hidden.zarr/block.3/c/0/0")
    data = bytearray(chunks.read_bytes())
    data[40] ^= 1
    chunks.write_bytes(data)
    transfer = files.transfer(lpp_store=str(copy))
    with pytest.raises(FormatError, match=r"block\.3") as raised:
        transfer.get_cached(0)
    assert raised.value.kind is ErrorKind.CORRUPT


def test_its_files_are_imported(files: Files, tmp_path: Path) -> None:
    export(files.run, "speculators", tmp_path / "d", only_prompts=True)
    files.generated(DEFAULT_LAYERS, tmp_path / "d" / "hidden_states")
    run = import_states(
        tmp_path / "d", "speculators", tmp_path / "s", model="m", layers=[*DEFAULT_LAYERS, BLOCKS]
    )
    assert run.sites == ("block.2", "block.3", "block.4", "block.7")
    for site in run.sites:
        rows = [np.concatenate([b.values for b in r.blocks(site)]) for r in (run, files.run)]
        np.testing.assert_array_equal(rows[0], rows[1])
