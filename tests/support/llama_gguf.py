"""A GGUF file of a small Llama, tensor by tensor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Matrices of one block, by the format's names."""


def llama_gguf(
    file: Path, tensors: Mapping[str, tuple[npt.NDArray[Any], Any]], *, width: int, heads: int
) -> None:
    """Write a Llama of as many blocks as `tensors` has, and a tokenizer of eleven tokens.

    tensors: (bytes or numbers, type of the format) by name, without `.weight`; matrices have
    `width` rows and columns.
    """
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(sum("ffn_norm" in name for name in tensors))
    writer.add_context_length(16)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(11)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*map(chr, range(97, 106)), "ab", "cd"])
    writer.add_token_merges(["a b", "c d"])  # transformers 5.6 reads one as a string
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def plain_tensors(width: int, blocks: int = 1) -> dict[str, tuple[npt.NDArray[Any], Any]]:
    """Every tensor of `llama_gguf`, in float32 and all of it 0.1."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (11, width), "output": (11, width)}
    shapes["output_norm"] = (width,)
    for block in range(blocks):
        shapes |= {f"blk.{block}.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.{name}": (width, width) for name in MATRICES}
    kind = gguf.GGMLQuantizationType.F32
    return {name: (np.full(shape, 0.1, np.float32), kind) for name, shape in shapes.items()}
