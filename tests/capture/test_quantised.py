"""Quantised files give the rows of the weights that they stand for, or one message says why not."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from backend_contract import captured, make_batch, plain_forward, torch_backend
from llama_gguf import llama_gguf, plain_tensors
from packaging.version import Version
from safetensors.torch import load_file, save_file

from lpp.capture.models import instantiate, machine
from lpp.capture.models.load import describe_model, load_model
from lpp.capture.models.spec import ModelSpec
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError

Weights = dict[str, torch.Tensor]
Made = tuple[Weights, Weights, dict[str, Any] | None]
"""Tensors of the files, the weights that they stand for, and `quantization_config`."""


@pytest.fixture
def copied(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A private copy of the tiny Llama's folder, to quantise."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("llama"), folder)
    return folder


def described(folder: Path, quantisation: dict[str, Any] | None) -> None:
    """Say in config.json how the weights are quantised; None: say nothing."""
    config = json.loads((folder / "config.json").read_text())
    more = {} if quantisation is None else {"quantization_config": quantisation}
    (folder / "config.json").write_text(json.dumps(config | more))


def quantised(folder: Path, make: Callable[[Weights], Made]) -> Weights:
    """Quantise the matrices of the blocks in `folder`. Returns what they stand for."""
    weights = load_file(folder / "model.safetensors")
    matrices = {name: weights.pop(name) for name in [*weights] if "_proj.weight" in name}
    files, plain, quantisation = make(matrices)
    save_file({**weights, **files}, folder / "model.safetensors", metadata={"format": "pt"})
    described(folder, quantisation)
    return plain


def check_rows(module: Any, reference: Any, ids: list[int], tolerance: float = 1e-5) -> None:
    """Compare the captured rows and the logits of a prompt with a plain pass of `reference`."""
    states, logits = plain_forward(reference, ids)
    (found,) = captured(torch_backend(module), [make_batch([ids])], ["block.1", "final"])
    for site, rows in found.batch.hidden.items():
        np.testing.assert_allclose(rows, states[site], rtol=0, atol=tolerance)
    np.testing.assert_allclose(plain_forward(module, ids)[1], logits, rtol=0, atol=tolerance)


def compressed(form: str, weights: dict[str, Any], **of_activations: Any) -> dict[str, Any]:
    """`quantization_config` of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, **of_activations}
    return {
        **{"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]},
        **{"quantization_status": "compressed", "config_groups": {"group_0": group}},
    }


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 16)], ids=["W8A16", "W4A16"])
def test_packed_integers(
    bits: int, group: int | None, copied: Path, tiny_model: Callable[[str], Any]
) -> None:
    def make(matrices: Weights) -> Made:
        files, plain = {}, {}
        for name, weight in matrices.items():
            groups = weight.view(len(weight), -1, group or weight.shape[1])
            scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
            levels = (groups / scale).round()
            plain[name] = (levels * scale).view_as(weight)
            fields = (levels.int() + 2 ** (bits - 1)).view(len(weight), -1, 32 // bits)
            words = sum(fields[..., place] << bits * place for place in range(32 // bits))
            files[f"{name}_packed"] = torch.as_tensor(words).int().contiguous()
            files[f"{name}_scale"] = scale[..., 0].contiguous()
            files[f"{name}_shape"] = torch.tensor(weight.shape)
        by = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
        how = compressed("pack-quantized", {"num_bits": bits, "type": "int", **by})
        return files, plain, how

    reference = copy.deepcopy(tiny_model("llama"))
    reference.load_state_dict(quantised(copied, make), strict=False)
    module = load_model(ModelSpec(id=str(copied), dtype="float32")).module
    check_rows(module, reference, list(range(3, 20)))


def test_float8_with_activations_in_float8(copied: Path, tiny_model: Callable[[str], Any]) -> None:
    """FP8_DYNAMIC: each matrix reads its input rounded to float8, with a scale for each token."""

    def rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = values.abs().amax(-1, keepdim=True) / 448
        return (values / scale).to(torch.float8_e4m3fn), scale

    def make(matrices: Weights) -> Made:
        files, plain = {}, {}
        for name, weight in matrices.items():
            files[name], files[f"{name}_scale"] = rounded(weight)
            plain[name] = files[name].float() * files[f"{name}_scale"]
        of_weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
        activations = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
        how = compressed("float-quantized", of_weights, input_activations=activations)
        return files, plain, how

    def round_input(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        levels, scale = rounded(inputs[0])
        return levels.float() * scale

    reference = copy.deepcopy(tiny_model("llama"))
    reference.load_state_dict(quantised(copied, make), strict=False)
    unrounded = plain_forward(reference, list(range(3, 20)))[1]
    for name, module in reference.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(round_input)
    rounding = np.abs(plain_forward(reference, list(range(3, 20)))[1] - unrounded).max()
    assert rounding > 1e-2  # else the test could not tell whether inputs are rounded
    module = load_model(ModelSpec(id=str(copied), dtype="float32")).module
    check_rows(module, reference, list(range(3, 20)))


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.19"),
    reason="transformers 5.6 reads this format with triton alone",
)
def test_float8_in_blocks(copied: Path, tiny_model: Callable[[str], Any]) -> None:
    """The format of DeepSeek-V3. Without a card, transformers dequantises it."""

    def make(matrices: Weights) -> Made:
        files, plain = {}, {}
        for name, weight in matrices.items():
            blocks = weight.unflatten(1, (-1, 8)).unflatten(0, (-1, 8))
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448
            levels = (blocks / scale).to(torch.float8_e4m3fn)
            files[name] = levels.view_as(weight)
            files[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
            plain[name] = (levels.float() * scale).view_as(weight)
        return files, plain, {"quant_method": "fp8", "weight_block_size": [8, 8]}

    reference = copy.deepcopy(tiny_model("llama"))
    reference.load_state_dict(quantised(copied, make), strict=False)
    module = load_model(ModelSpec(id=str(copied), dtype="float32")).module
    check_rows(module, reference, list(range(3, 20)))


def test_experts_in_mxfp4(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """The format of gpt-oss: an exponent for each 32 values of four bits."""
    configuration: Any = transformers.GptOssConfig
    config = configuration(
        **{"vocab_size": 131, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"num_local_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.2},
        **{"max_position_embeddings": 96, "rope_parameters": {"rope_type": "default"}},
    )
    torch.manual_seed(5)
    reference = transformers.GptOssForCausalLM(config).eval()
    reference.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    half = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels, drawn = torch.cat([half, -half]), torch.Generator().manual_seed(6)
    for name, weight in reference.named_parameters():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        shape = (*weight.transpose(1, 2).shape[:2], weight.shape[1] // 32, 32)
        fields = torch.randint(0, 16, shape, generator=drawn, dtype=torch.uint8)
        powers = torch.randint(-5, -2, shape[:-1], generator=drawn)
        weights[f"{name}_blocks"] = fields[..., ::2] | fields[..., 1::2] << 4
        weights[f"{name}_scales"] = (powers + 127).to(torch.uint8)
        plain = (levels[fields.int()] * 2.0 ** powers[..., None]).flatten(-2).transpose(1, 2)
        weight.data = plain.contiguous()
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    described(tmp_path, {"quant_method": "mxfp4"})
    for weight in reference.parameters():  # up to transformers 5.19, experts have no other dtype
        weight.data = weight.data.bfloat16()
    module = load_model(ModelSpec(id=str(tmp_path), dtype="bfloat16")).module
    check_rows(module, reference, list(range(3, 20)))


WIDTH, HEADS, BLOCKS = 256, 2, 4
LEFT_OUT = {"F32", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K", "Q1_0", "IQ1_M", "NVFP4"}
"""Types that no file of weights has, and those whose scales are no plain half of a block."""
KINDS = [kind for kind in gguf_library.GGMLQuantizationType if kind.name not in LEFT_OUT]
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Bytes of a block where its scales in float16 begin; elsewhere it begins with one."""


def of_kind(kind: Any, rows: int, drawn: np.random.Generator) -> npt.NDArray[Any]:
    """Random weights as the format stores them, of a standard deviation of about 0.06."""
    weights = drawn.normal(scale=0.06, size=(rows, WIDTH)).astype(np.float32)
    try:
        return gguf_library.quantize(weights, kind)
    except NotImplementedError:  # the library reads this type only: random levels, equal scales
        entries, size = gguf_library.GGML_QUANT_SIZES[kind]
        blocks = drawn.integers(0, 256, (rows, WIDTH // entries, size), dtype=np.uint8)
        scale = 1.0
        for _ in range(2):  # the second time, with the scale that gives the deviation
            half = np.array([scale], np.float16).view(np.uint8)
            for start in HALVES.get(kind.name, (0,)):
                blocks[..., start : start + 2] = half
            stored = blocks.reshape(rows, -1)
            scale = 0.06 / gguf_library.dequantize(stored, kind).std()
        return stored


def test_every_type_of_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file with each matrix of another type: a model of its dequantised weights in bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors, drawn = plain_tensors(WIDTH, BLOCKS), np.random.default_rng(3)
    kinds: dict[str, Any] = {}
    plain: Weights = {}
    for name, (data, _) in tensors.items():
        if data.ndim == 1:
            continue
        kinds[name] = kind = KINDS[len(kinds) % len(KINDS)]
        tensors[name] = stored, _ = of_kind(kind, len(data), drawn), kind
        weight = torch.tensor(gguf_library.dequantize(stored, kind)).bfloat16().float()
        if name.endswith(
            ("attn_q", "attn_k")
        ):  # the format keeps pairs of the rotation side by side
            weight = weight.unflatten(0, (HEADS, -1, 2)).transpose(1, 2).flatten(0, 2)
        plain[name] = weight
    assert set(kinds.values()) == set(KINDS)
    llama_gguf(tmp_path / "mixed.gguf", tensors, width=WIDTH, heads=HEADS)
    configuration: Any = transformers.LlamaConfig
    config = configuration(
        **{"vocab_size": 11, "hidden_size": WIDTH, "intermediate_size": WIDTH},
        **{"num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "rms_norm_eps": 1e-5},
    )
    reference = transformers.LlamaForCausalLM(config).eval()
    ours = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
    for block in range(BLOCKS):
        there, here = f"blk.{block}", f"model.layers.{block}"
        ours |= {f"{there}.attn_{x}": f"{here}.self_attn.{x}_proj" for x in "qkv"}
        ours |= {f"{there}.ffn_{x}": f"{here}.mlp.{x}_proj" for x in ("gate", "up", "down")}
        ours[f"{there}.attn_output"] = f"{here}.self_attn.o_proj"
        ours[f"{there}.attn_norm"] = f"{here}.input_layernorm"
        ours[f"{there}.ffn_norm"] = f"{here}.post_attention_layernorm"
    norm = torch.full((WIDTH,), 0.1).bfloat16().float()
    state = {f"{ours[name]}.weight": plain.get(name, norm) for name in tensors}
    reference.load_state_dict(state)
    module = load_model(ModelSpec(id=str(tmp_path / "mixed.gguf"), dtype="float32")).module
    for name, kind in kinds.items():
        loaded = module.state_dict()[f"{ours[name]}.weight"]
        assert torch.equal(loaded, plain[name]), f"{name} of type {kind.name}"
    check_rows(module, reference, [0, 3, 5, 2, 9, 10, 1, 1, 4])


def refused(
    folder: Path, kind: ErrorKind, match: str, error: type[LppError] = InputError, **how: Any
) -> None:
    with pytest.raises(error, match=match) as caught:
        load_model(ModelSpec(id=str(folder), **how))
    assert caught.value.kind is kind
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("method", ["awq", "torchao"])
def test_a_package_that_is_missing_is_named(
    method: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(copied, {"quant_method": method, "bits": 4, "group_size": 32})
    monkeypatch.setattr("importlib.metadata.distributions", lambda: iter(()))
    (needed,) = instantiate.QUANTISED_BY[method]
    said = (
        rf"are quantised \({method}\), which needs {needed}\. Install with: pip install {needed}$"
    )
    refused(copied, ErrorKind.NO_PACKAGE, said, MachineError)


def test_packages_that_are_there_need_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        name = "Compressed_Tensors"

    monkeypatch.setattr("importlib.metadata.distributions", lambda: iter([Installed()]))
    instantiate.require_quantised("m", {"quant_method": "compressed-tensors"})
    instantiate.require_quantised("m", {"quant_method": "spqr"})  # transformers says what it needs
    with pytest.raises(MachineError, match=r"pip install optimum gptqmodel$"):
        instantiate.require_quantised("m", {"quant_method": "gptq"})


@pytest.mark.parametrize("method", ["modelopt", "hqq", "quanto"])
def test_a_method_that_transformers_does_not_read_is_refused(method: str, copied: Path) -> None:
    described(copied, {"quant_method": method})
    said = rf"quantised \({method}\), which transformers does not read\. Give a copy in a format"
    refused(copied, ErrorKind.UNSUPPORTED_MODEL, said)


def test_scales_that_nothing_tells_of_are_refused(copied: Path) -> None:
    """Files of ModelOpt, whose own hf_quant_config.json vLLM reads and transformers does not."""

    def make(matrices: Weights) -> Made:
        levels = {name: (w * 9).to(torch.float8_e4m3fn) for name, w in matrices.items()}
        scales = {f"{name}_scale": torch.tensor(1 / 9) for name in matrices}
        return levels | scales, {}, None

    quantised(copied, make)
    (copied / "hf_quant_config.json").write_text("{}")
    said = (
        r"have 21 weights \(model\..*weight_scale, \.\.\.\) that its config.json does not tell of"
    )
    refused(copied, ErrorKind.UNSUPPORTED_MODEL, said)
    assert describe_model(ModelSpec(id=str(copied))).dtype == "float32"


def test_scales_of_weights_that_the_model_lacks_are_none_of_its_own(copied: Path) -> None:
    """Heads that predict further tokens, which transformers leaves out, come with scales."""
    weights = load_file(copied / "model.safetensors")
    further = {"mtp.up.weight": torch.ones(2, 2), "mtp.up.weight_scale_inv": torch.ones(1)}
    save_file({**weights, **further}, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(ModelSpec(id=str(copied))).info.n_blocks == 3


def test_a_format_for_cards_alone_says_so(copied: Path) -> None:
    described(copied, {"quant_method": "fbgemm_fp8"})
    said = "cannot be loaded: Using fbgemm fp8 quantization requires a GPU"
    refused(copied, ErrorKind.UNSUPPORTED_MODEL, said)


def test_weights_for_another_dtype_name_the_option() -> None:
    with (
        pytest.raises(InputError, match=r"m has weights for another dtype: .* --dtype bfloat16"),
        machine.explained("m", "cpu"),
    ):
        torch.ones(2, 2) @ torch.ones(2, 2, dtype=torch.bfloat16)
