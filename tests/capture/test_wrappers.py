"""Models beyond the plain causal class, captured by the command and compared with the model itself:
those that read images too, on text alone, and those that transform states before the unembedding.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal_classes import small_model
from click.testing import CliRunner
from stored import only_run

from lpp.capture.cli.command import main
from lpp.capture.models.load import describe_model, load_model
from lpp.capture.models.spec import ModelSpec

KINDS = ("qwen2_5_vl", "qwen3_vl", "mistral3", "llava", "minicpm3", "bert", "longcat_flash")
IMAGES = KINDS[:4]
"""They read images too."""


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, tiny_tokenizer: Any, tmp_path: Path
) -> tuple[Path, torch.nn.Module]:
    """A saved model with its tokenizer, and the model."""
    model = small_model(request.param)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def _own_rows(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    """Rows of one prompt alone, and the entropy of its logits, by hooks on the blocks."""
    decoder = getattr(model.base_model, "language_model", model.base_model)
    blocks = decoder.encoder.layer if hasattr(decoder, "encoder") else decoder.layers
    rows: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            state = output if isinstance(output, torch.Tensor) else output[0]
            rows[name] = state[0].numpy().copy()

        return hook

    handles = [b.register_forward_hook(keep(f"block.{k}")) for k, b in enumerate(blocks, 1)]
    handles.append(decoder.register_forward_hook(keep("final")))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    for handle in handles:
        handle.remove()
    log_p = logits.log_softmax(-1)
    return rows | {"entropy": -(log_p.exp() * log_p).sum(-1).numpy()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("folder", KINDS, indirect=True)
def test_rows_are_the_models_own(folder: tuple[Path, Any], tmp_path: Path) -> None:
    path, model = folder
    text = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
    texts = [text * 2, text[10:40], text[4:60], text[:70]]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    words = [
        "run",
        "--model",
        path,
        "--corpus",
        tmp_path / "texts.jsonl",
        "--store",
        tmp_path / "lpp",
    ]
    words += ["--prompts", 4, "--context", 40, "--dtype", "float32"]
    words += ["--device", "cpu"]
    done = CliRunner().invoke(main, [*map(str, words)])
    assert done.exit_code == 0, done.output
    run = only_run(tmp_path / "lpp")
    assert run.plan.model.architecture == type(model).__name__
    blocks = [site for site in run.sites if site.startswith("block.")]
    assert run.plan.model.n_blocks == len(blocks) > 1
    tokens = run.tokens().to_table()
    stored = {site: np.concatenate([*run.hidden(site)]) for site in (*blocks, "final")}
    stored["entropy"] = tokens["entropy"].to_numpy()
    ids, edges = tokens["token_id"].to_numpy(), run.row_edges
    assert len({*run.lengths}) == 4  # short prompts are padded
    for start, end in itertools.pairwise(edges):
        own = _own_rows(model, ids[start:end].tolist())
        assert own.keys() == stored.keys()
        for name, rows in own.items():
            near = {"rtol": 1e-4, "atol": 1e-5 * np.abs(rows).max(), "err_msg": name}
            np.testing.assert_allclose(stored[name][start:end], rows, **near)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("folder", IMAGES, indirect=True)
def test_a_model_that_reads_images_is_described_as_it_is_loaded(folder: tuple[Path, Any]) -> None:
    spec = ModelSpec(id=str(folder[0]))
    described, loaded = describe_model(spec), load_model(spec)
    assert described.info == loaded.info
    assert loaded.info.n_parameters == folder[1].num_parameters()
