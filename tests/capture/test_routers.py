"""The experts of each token, recomputed from the input of the router."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from backend_contract import branching_batch, captured, make_batch, random_prompts, torch_backend
from causal_classes import VOCABULARY, small_model
from click.testing import CliRunner, Result
from loaded_models import TEXTS
from plain_routers import RULES, gates, of_groups, recomputed
from stored import object_path, stored_objects
from tested_device import on_device

from lpp.analyze import DiffSettings, LayersSettings, diff
from lpp.analyze.cli.command import main as analyze
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.runs.capture_command import capture_command
from lpp.analyze.studies.layers import layers
from lpp.capture import capture as from_python
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.cli.command import main
from lpp.capture.models.structure.find_sites import find_sites
from lpp.store import Run, open_store
from lpp.store.errors import FormatError
from lpp.store.feed import rows as row_feed
from lpp.store.format.plan import SiteSpec, parse_plan, validate_plan

ALL: Final = (
    *("afmoe", "aria_text", "axk1", "bailing_hybrid", "beam", "cohere2_moe", "deepseek_v2"),
    *("deepseek_v3", "deepseek_v4", "dots1", "ernie4_5_moe", "exaone_moe", "flex_olmo", "flint"),
    *("glm4_moe", "glm4_moe_lite", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid"),
    *("granitemoeshared", "hunyuan_v1_moe", "hy_v3", "jamba", "kimi_linear", "kolibri1", "laguna"),
    *("lara_mini", "lfm2_moe", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "mixtral"),
    *("minimax_m3_vl_text", "nemotron_h", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe"),
    *("qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "sarvam_mla", "sarvam_moe", "solar_open"),
    *("axk2", "deepseek_v32", "glm_moe_dsa", "hy_v4", "qwen4_exp", "qwen4_exp_text", "zaya"),
)
"""Accepted families whose routers are found."""


def floats(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def assert_equal_rows(
    found: Mapping[str, Any], want: Mapping[str, Any], *, rtol: float = 2**-8
) -> None:
    """Experts are equal and weights equal to rounding in bfloat16, in any order within a token:
    a router with groups gives them in none.
    """
    for name in [name for name in want if not name.endswith(".weight")]:
        order, expected = (np.argsort(rows, axis=1) for rows in (found[name], want[name]))
        experts = np.take_along_axis(found[name], order, 1)
        np.testing.assert_array_equal(experts, np.take_along_axis(want[name], expected, 1))
        weights = np.take_along_axis(floats(found[f"{name}.weight"]), order, 1)
        np.testing.assert_allclose(
            weights, np.take_along_axis(want[f"{name}.weight"], expected, 1), rtol=rtol
        )


def router_names(backend: TorchBackend) -> list[str]:
    return [name for name in backend.sites.names_with_routers if name.startswith("router")]


def routed_model(model_type: str) -> Any:
    """A small model. One with groups has two groups of four for a token, and corrections that
    change its choices: a new model has zeros.
    """
    model = small_model(model_type)
    if RULES[model_type] is not of_groups:
        return model
    model.config.update({"n_routed_experts": 8, "n_group": 4, "topk_group": 2})
    model.config.update({"num_experts_per_tok": 3, "norm_topk_prob": True})
    torch.manual_seed(5)
    model = type(model)(model.config).eval()
    with torch.no_grad():
        for gate in gates(model).values():
            gate.weight.normal_(std=0.1)
            gate.e_score_correction_bias.normal_(std=0.1)
    return model


@pytest.mark.parametrize("model_type", RULES)
def test_rows_are_recomputed_from_the_input_of_the_router(model_type: str) -> None:
    model = routed_model(model_type)
    backend = torch_backend(on_device(model))
    prompts = random_prompts(VOCABULARY, [9, 4, 17, 1])
    want = recomputed(model, RULES[model_type], prompts)
    assert router_names(backend) == [*want]
    (found,) = captured(backend, [make_batch(prompts)], [*want, "final"])
    for k, gate in gates(model).items():
        assert len(np.unique(want[f"router.{k}"])) > gate.top_k
    assert_equal_rows(found.batch.hidden, want)
    for name, rows in found.batch.hidden.items():
        if (
            name.startswith("router")
            and not name.endswith("weight")
            and RULES[model_type] != of_groups
        ):
            np.testing.assert_array_equal(rows, want[name])  # as the router orders them, too


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_of_other_sites_changes_nothing(dtype: Any) -> None:
    model = small_model("mixtral")
    prompts = random_prompts(VOCABULARY, [9, 4])
    want = recomputed(model, RULES["mixtral"], prompts)
    (found,) = captured(
        torch_backend(on_device(model)), [make_batch(prompts)], [*want, "final"], dtype
    )
    assert_equal_rows(found.batch.hidden, want)
    assert found.batch.hidden["router.1"].dtype == np.uint8


def test_more_than_256_experts_are_uint16() -> None:
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=300,
        num_experts_per_tok=3,
    )
    torch.manual_seed(2)
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        gates(model)[1].weight.normal_()
    backend = torch_backend(on_device(model))
    assert [spec.dtype for spec in backend.sites.routers[1]] == ["uint16", "bfloat16"]
    prompts = random_prompts(VOCABULARY, [40, 30])
    want = recomputed(model, RULES["mixtral"], prompts)
    assert want["router.1"].max() > 255
    (found,) = captured(backend, [make_batch(prompts)], [*want])
    assert found.batch.hidden["router.1"].dtype == np.uint16
    assert_equal_rows(found.batch.hidden, want)


@pytest.mark.slow
def test_branches_and_halves_have_the_rows_of_whole_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model("mixtral")
    backend = torch_backend(on_device(model))
    assert backend.reuses
    batch, every = branching_batch(VOCABULARY)
    of_prompts = [recomputed(model, RULES["mixtral"], [ids]) for ids in every]
    want = {
        site: np.concatenate(
            [rows[site][-n:] for rows, n in zip(of_prompts, batch.lengths, strict=True)]
        )
        for site in router_names(backend)
    }
    (found,) = captured(backend, [batch], [*want])
    assert_equal_rows(found.batch.hidden, want)

    whole = TorchBackend.forward

    def small(self: TorchBackend, batch: Any, *rest: Any) -> Any:
        if len(batch.lengths) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, *rest)

    monkeypatch.setattr(TorchBackend, "forward", small)
    (found,) = captured(backend, [batch], [*want])
    assert_equal_rows(found.batch.hidden, want)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", [pytest.param(k, marks=pytest.mark.slow) for k in ALL])
def test_rows_of_a_padded_batch_are_those_of_each_prompt_alone(model_type: str) -> None:
    model = small_model(model_type)
    backend = torch_backend(on_device(model))
    names = router_names(backend)
    prompts = random_prompts(VOCABULARY, [9, 4, 17, 1])
    (together,) = captured(backend, [make_batch(prompts)], names)
    alone = [next(captured(backend, [make_batch([ids])], names)).batch.hidden for ids in prompts]
    assert names
    assert_equal_rows(
        together.batch.hidden,
        {
            name: np.concatenate(
                [floats(rows[name]) if name.endswith("weight") else rows[name] for rows in alone]
            )
            for name in names
        },
        rtol=2**-7,  # of two that were rounded
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", ["llama", "jetmoe", "llama4_text"])
def test_a_model_whose_choices_cannot_be_read_has_no_router(model_type: str) -> None:
    assert find_sites(small_model(model_type)).sites.routers == {}


# From a folder, by the command.


@pytest.fixture(scope="module")
def place(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, texts, and `lpp`, a store with a run of each."""
    place = tmp_path_factory.mktemp("routers")
    model = small_model("mixtral")
    for name in ("mixtral", "other"):
        model.save_pretrained(place / name)
        tiny_tokenizer.save_pretrained(place / name)
        gates(model)[2].weight.data += 0.05 * gates(model)[3].weight.data
    texts = ["the dog and the fox do mind " * (1 + n % 5) + str(n) for n in range(20)]
    (place / "texts.txt").write_text("\n\n".join(texts))
    for name in ("mixtral", "other"):
        done = capture(place / "lpp", place, name, "--sites=routers,block.4,final")
        assert done.exit_code == 0, done.output
    return place


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Shards of a few prompts each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lpp.capture.plan.planning.shard_bytes", lambda *_: 60_000)
        yield


RUNS = ("mixtral", "other")


def capture(store: Path, place: Path, model: str, *more: str) -> Result:
    words = ["run", f"--model={place / model}", f"--corpus={place / 'texts.txt'}"]
    words += [f"--store={store}", "--min-bytes=0", "--context=40", "--batch-tokens=300"]
    return CliRunner().invoke(main, [*words, "--device=cpu", *more])


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """The run of the first model."""
    return open_store(place / "lpp").run("mixtral")


@pytest.fixture(scope="module")
def expected(place: Path, run: Run) -> dict[str, Any]:
    """Site -> rows of all tokens of the run."""
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "mixtral").eval()
    return recomputed(model, RULES["mixtral"], run.prompts()["token_ids"].to_pylist())


@pytest.mark.slow
def test_a_run_holds_the_rows_of_its_tokens(run: Run, expected: Mapping[str, Any]) -> None:
    assert run.plan.n_shards > 2
    assert len({*run.lengths.tolist()}) > 3  # so batches are padded
    names = [f"router.{k}{part}" for k in range(1, 5) for part in ("", ".weight")]
    assert run.sites == (*names, "block.4", "final")
    assert run.activation_sites == ("block.4", "final")
    assert [run.plan.depth_of(name) for name in names] == [1, 1, 2, 2, 3, 3, 4, 4]
    stored = {name: run.array(name, dtype="stored")[:] for name in names}
    assert_equal_rows(stored, expected)
    blocks = np.concatenate([block.values for block in run.blocks("router.2.weight")])
    np.testing.assert_array_equal(blocks, floats(stored["router.2.weight"]))
    assert run.verify() == []


def test_the_feed_gives_them_beside_other_rows(run: Run, expected: Mapping[str, Any]) -> None:
    sites = ["router.2", "router.2.weight", "final"]
    batches = row_feed(run, sites, batch=64, seed=0, like="torch", buffer="24 MiB")
    seen = 0
    for experts, weights, states in batches:
        np.testing.assert_array_equal(experts.numpy(), expected["router.2"][batches.ids])
        want = expected["router.2.weight"][batches.ids]
        np.testing.assert_allclose(weights.float().numpy(), want, rtol=2**-8)
        seen += len(states)
    assert seen == run.lengths.sum()


@pytest.mark.slow
def test_plans_without_routers_are_as_before(place: Path, tmp_path: Path) -> None:
    for sites in ("all", "*", "embed,block.*,final"):
        done = capture(tmp_path / "lpp", place, "mixtral", f"--sites={sites}")
        assert done.exit_code == 0, done.output
    (run,) = open_store(tmp_path / "lpp").runs.values()
    assert run.sites == ("embed", "block.1", "block.2", "block.3", "block.4", "final")
    assert all(
        site.keys() == {"name", "convention", "width"} for site in run.plan.document["sites"]
    )


@pytest.mark.slow
def test_a_damaged_run_is_computed_again(run: Run, place: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(place / "lpp", tmp_path / "lpp"))
    before = stored_objects(run.path)
    shard = store / "runs" / run.id / "shards" / "00001"
    path = object_path(shard, "hidden.zarr/router.2/c/0/0")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    shutil.rmtree(store / "runs" / run.id / "shards" / "00002")
    words = ["repair", str(store), "--missing", f"--model={place / 'mixtral'}"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert stored_objects(store / "runs" / run.id) == before


def test_rounded_rows_leave_routers_alone(place: Path, run: Run, tmp_path: Path) -> None:
    more = ("--sites=router.2,router.2.weight,final", "--stored-dtype=float8_e4m3")
    done = capture(tmp_path / "lpp", place, "mixtral", *more)
    assert done.exit_code == 0, done.output
    (rounded,) = open_store(tmp_path / "lpp").runs.values()
    assert [site.dtype for site in rounded.plan.sites] == ["uint8", "bfloat16", "float8_e4m3"]
    for site in ("router.2", "router.2.weight"):
        ours, theirs = (of_run.array(site, dtype="stored")[:] for of_run in (run, rounded))
        np.testing.assert_array_equal(ours, theirs)
    command = " ".join(capture_command(rounded.plan.document, "lpp").split())
    assert "--sites router.2,router.2.weight,final" in command
    assert command.endswith("--stored-dtype float8_e4m3")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ("--sites=router.9",),
            "no site 'router.9' in this model: it has router.1, router.1.weight",
        ),
        (("--sites=router.x",), "no site 'router.x' in any model"),
        (("--sites=routers", "--backend=vllm"), "--backend vllm cannot follow --sites routers"),
        (
            ("--sites=final,router.2", "--backend=vllm+torch"),
            "--backend vllm+torch cannot follow --sites routers",
        ),
        (
            ("--sites=routers,final", "--stored-dtype=router.2=float8_e4m3"),
            "no site of that name is captured, of final",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    place: Path, tmp_path: Path, more: Sequence[str], says: str
) -> None:
    done = capture(tmp_path / "lpp", place, "mixtral", *more)
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "lpp").exists()


def test_a_model_without_a_router_is_refused(
    place: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(tiny_folder("llama"), tmp_path / "llama")
    shutil.copy(place / "texts.txt", tmp_path)
    done = capture(tmp_path / "lpp", tmp_path, "llama", "--sites=routers")
    assert done.exit_code == 2
    assert "it has no router whose choices can be read" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("profile", "--metrics", "*"),
        ("layers",),
        ("cka",),
        ("diff", "mixtral", "other"),
        ("verify",),
        ("report", "--output", "{}/report.html"),
        ("export", "mixtral", "--to", "safetensors", "--output", "{}/rows"),
        ("publish", "--to", "{}/public"),
    ],
    ids=lambda words: words[0],
)
def test_spectra_are_of_other_sites(place: Path, tmp_path: Path, words: Sequence[str]) -> None:
    store = Path(shutil.copytree(place / "lpp", tmp_path / "lpp"))
    if words[0] in ("report", "publish"):
        done = CliRunner().invoke(analyze, ["profile", str(store)])
        assert done.exit_code == 0, done.output
    command, *rest = (word.format(tmp_path) for word in words)
    done = CliRunner().invoke(analyze, [command, str(store), *rest])
    assert done.exit_code == 0, done.output
    if command != "publish":
        assert ("router" in done.output) == (command in ("layers", "diff"))


@pytest.mark.slow
def test_a_perturbed_router_is_found_at_its_block(place: Path, tmp_path: Path) -> None:
    store = shutil.copytree(place / "lpp", tmp_path / "lpp")
    sites = diff(store, "mixtral", "other", DiffSettings(sites=["router.*"])).sites
    changes = {site.site: site.expert_change.value for site in sites}
    assert list(changes) == ["router.1", "router.2", "router.3", "router.4"]
    assert changes["router.1"] == 0
    rows = [open_store(store).run(name).array("router.2", dtype="stored")[:] for name in RUNS]
    moved = [{*a} != {*b} for a, b in zip(*(array.tolist() for array in rows), strict=True)]
    assert changes["router.2"] == pytest.approx(np.mean(moved))
    assert any(moved)  # the weight of its gate was changed


@pytest.mark.slow
def test_loads_are_those_of_the_recomputed_choices(
    place: Path, tmp_path: Path, expected: Mapping[str, Any]
) -> None:
    store = shutil.copytree(place / "lpp", tmp_path / "lpp")
    loads = layers(store, LayersSettings(runs=["mixtral"], sites=["router.*"])).expert_load_frame()
    assert loads["site"].to_list() == ["router.1", "router.2", "router.3", "router.4"]
    for row in loads.to_dicts():
        ids = expected[row["site"]]
        counts = np.bincount(ids.ravel(), minlength=row["n_experts"])
        assert row["loads"] == pytest.approx((counts / ids.size).tolist())


@pytest.mark.parametrize("site", ["router.2", "router.2.weight"])
def test_a_router_has_no_spectrum(place: Path, site: str) -> None:
    done = CliRunner().invoke(analyze, ["profile", str(place / "lpp"), "--sites", site])
    assert done.exit_code == 2
    assert f"site {site} holds integers or what a router gives" in " ".join(done.output.split())


@pytest.mark.slow
def test_routers_alone_have_no_spectrum(place: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    for name, folder in (("first", "mixtral"), ("second", "other")):
        model = transformers.AutoModelForCausalLM.from_pretrained(place / folder).eval()
        settings: dict[str, Any] = {"sites": ["router.2*"], "name": name, "context": 20}
        store = tmp_path / "lpp"
        made = from_python(model, tiny_tokenizer, TEXTS, store=store, quiet=True, **settings)
        assert made.sites == ("router.2", "router.2.weight")
    for command, code, says in (
        (["profile"], 2, "no run holds hidden states"),
        (["layers"], 0, "Load by expert"),
        (["diff", "first", "second"], 0, "router.2"),
    ):
        done = CliRunner().invoke(analyze, [command[0], str(tmp_path / "lpp"), *command[1:]])
        assert done.exit_code == code
        assert says in " ".join(done.output.split())


def test_a_page_knows_no_curve_of_a_router(run: Run) -> None:
    (of_run,) = origin_of([run]).runs
    assert of_run.sites == ("block.4", "final")


@pytest.mark.parametrize(
    "change",
    [{"name": "router.2.weight"}, {"name": "block.2"}, {"dtype": "int32"}, {"dtype": None}],
    ids=str,
)
def test_a_plan_says_what_a_router_is(run: Run, change: Mapping[str, Any]) -> None:
    sites = (SiteSpec(name="router.2", convention="router", width=2, dtype="uint8"),)
    good = replace(run.plan, sites=sites)
    assert validate_plan(good) == []
    assert good.format == 5
    bad = replace(good, sites=(replace(sites[0], **change),))
    with pytest.raises(FormatError, match=r"is not router.<k> of uint8"):
        parse_plan(bad.document, "plan.json")
