"""Tiny checkpoints of formats whose packages no test has, and what a capture of each gives here.

In an environment that has the packages (those rows of docs/troubleshooting.md are made of it):

    PYTHONPATH=tests/support python -m quantised_formats [NAME ...]

For each format and `--dtype`: the largest distance of captured rows from transformers' own pass,
and the KL divergence (nats a token) of the logits from those of a plain float32 model with the
dequantised weights, and from the model before it was quantised.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from backend_contract import captured, make_batch, plain_forward, torch_backend
from safetensors.torch import save_file

from lpp.capture.models.load import load_model
from lpp.capture.models.spec import ModelSpec

Weights = dict[str, torch.Tensor]
SHAPE: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.08},
}


def plain_model(dtype: torch.dtype = torch.float32) -> Any:
    """A random Llama whose weights bfloat16 holds."""
    torch.manual_seed(7)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).eval()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().to(dtype)
    return model


def matrices(model: Any) -> Weights:
    return {n: w.float() for n, w in model.state_dict().items() if n.endswith("proj.weight")}


def four_bits(method: str, folder: Path) -> Weights:
    """GPTQ packs along the inputs; AWQ along the outputs, in an order of its own."""
    order = [0, 2, 4, 6, 1, 3, 5, 7] if method == "awq" else [*range(8)]

    def packed(values: torch.Tensor) -> torch.Tensor:
        fields = values.numpy().astype(np.uint32).reshape(len(values), -1, 8)[..., order]
        words = (fields << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32)
        return torch.tensor(words.view(np.int32)).contiguous()

    model, plain = plain_model(torch.bfloat16), {}
    files = {name: w for name, w in model.state_dict().items() if "proj.weight" not in name}
    for name, weight in matrices(model).items():
        groups, stem = weight.unflatten(1, (-1, 64)), name.removesuffix("weight")
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).half().float()
        zero = (-low / scale).round()
        level = ((groups / scale).round() + zero).clamp(0, 15)
        plain[name] = ((level - zero) * scale).flatten(1)
        level, zero = level.flatten(1), zero[..., 0].T
        files[f"{stem}scales"] = scale[..., 0].T.half().contiguous()
        if method == "gptq":
            files[f"{stem}qweight"] = packed(level).T.contiguous()
            files[f"{stem}qzeros"] = packed((zero - 1) % 16)
            files[f"{stem}g_idx"] = torch.arange(weight.shape[1], dtype=torch.int32) // 64
        else:
            files[f"{stem}qweight"], files[f"{stem}qzeros"] = packed(level.T), packed(zero)
    how = {"quant_method": method, "bits": 4, "group_size": 64, "desc_act": False, "sym": False}
    model.config.quantization_config, model.config.dtype = {**how, "zero_point": True}, "bfloat16"
    model.config.save_pretrained(folder)
    save_file(files, folder / "model.safetensors", metadata={"format": "pt"})
    return plain


def by_transformers(config: Callable[[], Any], folder: Path) -> Weights:
    """What transformers writes of a model that it has quantised, and what each matrix does to 1."""
    plain_model(torch.bfloat16).save_pretrained(folder / "plain")
    model = transformers.LlamaForCausalLM.from_pretrained(
        folder / "plain", quantization_config=config(), dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(folder)
    stems = {name: name.removesuffix(".weight") for name in matrices(plain_model())}
    parts: dict[str, Any] = {name: model.get_submodule(stem) for name, stem in stems.items()}
    return {n: p(torch.eye(p.in_features).bfloat16()).T.float() for n, p in parts.items()}


def bits_and_bytes(bits: int) -> Any:
    how = {f"load_in_{bits}bit": True, "bnb_4bit_quant_type": "nf4"}
    return transformers.BitsAndBytesConfig(**how)


def torchao(name: str) -> Any:
    library = importlib.import_module("torchao.quantization")
    return transformers.TorchAoConfig(getattr(library, f"{name}Config")())


AO = ("Int8WeightOnly", "Float8WeightOnly", "Int4WeightOnly", "Int8DynamicActivationInt8Weight")
FORMATS: dict[str, Callable[[Path], Weights]] = {
    **{method: partial(four_bits, method) for method in ("gptq", "awq")},
    "bitsandbytes int8": partial(by_transformers, partial(bits_and_bytes, 8)),
    "bitsandbytes nf4": partial(by_transformers, partial(bits_and_bytes, 4)),
    **{f"torchao {name}": partial(by_transformers, partial(torchao, name)) for name in AO},
}


@torch.inference_mode()
def measured(make: Callable[[Path], Weights], folder: Path, dtype: Any) -> str:
    """The figures of a row, over 240 random tokens."""
    plain, before, reference = make(folder), plain_model(), plain_model()
    module = load_model(ModelSpec(id=str(folder), dtype=dtype, tokenizer_optional=True)).module
    reference.load_state_dict(plain, strict=False)
    found: list[tuple[float, ...]] = []
    for ids in torch.randint(3, 512, (4, 60), generator=torch.Generator().manual_seed(1)).tolist():
        states, logits = plain_forward(module, ids)
        (shard,) = captured(torch_backend(module), [make_batch([ids])], ["block.1", "final"])
        rows = max(np.abs(row - states[site]).max() for site, row in shard.batch.hidden.items())
        q, p, o = (
            torch.tensor(values).double().log_softmax(-1)
            for values in (logits, *(plain_forward(model, ids)[1] for model in (reference, before)))
        )
        found.append((rows, *(float((x.exp() * (x - q)).sum(-1).mean()) for x in (p, o))))
    rows, of_plain, of_before = np.mean(found, axis=0)
    return f"rows {rows:.1e}, KL {of_plain:.1e}, of the unquantised model {of_before:.1e}"


if __name__ == "__main__":
    for name, make in FORMATS.items():
        if len(sys.argv) == 1 or any(word in name for word in sys.argv[1:]):
            for dtype in ("float32", "bfloat16"):
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        said = measured(make, Path(folder), dtype)
                    except Exception as error:
                        said = f"{type(error).__name__}: {error}"
                    print(f"{name:48} {dtype:8} {said}", flush=True)
