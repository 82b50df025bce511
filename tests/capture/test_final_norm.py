"""The final norm of every family, recovered from captured rows, against the model's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lpp.analyze.logits.final_norm import best_norm, tolerance
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.spec import ModelSpec
from lpp.capture.models.structure.find_sites import find_sites
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, open_store

LAYER_NORM = ("gpt2", "gpt_neox", "opt", "falcon", "falcon_alibi", "falcon_new")
ROUNDED = {"float32": 1e-6, "bfloat16": 2e-3}
"""Error of a row after the norm, relative to the row: what the weights of a norm that was recovered
from rounded rows may be off.
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(f"the dog {n} and the fox {n * 7} " * 4 for n in range(8)))
    return path


@pytest.fixture
def captured(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> Callable[[str, str], Run]:
    """`captured("llama", "float32")`: every block and `final`, computed and stored in a dtype."""

    def capture(family: str, dtype: Any) -> Run:
        asked = CaptureRequest(
            model=ModelSpec(id=str(tiny_folder(family)), dtype=dtype),
            corpus=CorpusSpec(name=str(corpus)),
            selection=Selection(prompts=8, min_bytes=0),
            context=40,
            sites=("block.*", "final"),
        )
        done = capture_into(tmp_path / "store", asked)
        return open_store(tmp_path / "store").runs[done.run]

    return capture


@pytest.mark.slow
def test_every_family(
    family: str, captured: Callable[[str, str], Run], tiny_model: Callable[[str], Any]
) -> None:
    run = captured(family, "float32")
    if find_sites(tiny_model(family)).final_norm is None:
        assert run.site("final").convention == "residual"  # nothing to recover
        return
    check_every_block(run, tiny_model(family), family in LAYER_NORM)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_rounded_rows(
    family: str, captured: Callable[[str, str], Run], tiny_model: Callable[[str], Any]
) -> None:
    run = captured(family, "bfloat16")
    check_every_block(run, tiny_model(family), family in LAYER_NORM)


def check_every_block(run: Run, model: Any, layer_norm: bool) -> None:
    """Norm and logits of the model in float32, from the rows of each block."""
    dtype = run.plan.stored_dtype
    rows = {site: np.concatenate(list(run.hidden(site))) for site in run.sites}
    norm = best_norm(rows[run.sites[-2]], rows["final"])
    assert norm.error < tolerance(dtype) / 4
    assert norm.kind == ("LayerNorm" if layer_norm else "RMSNorm")
    own_norm, head = find_sites(model).final_norm, model.get_output_embeddings()
    assert own_norm is not None
    for site in run.sites[:-1]:
        with torch.no_grad():
            own = own_norm(torch.from_numpy(rows[site]))
            logits = head(own).numpy()
            mine = norm.apply(rows[site])
            of_mine = head(torch.from_numpy(mine)).numpy()
        assert distance(mine, own.numpy()).max() < ROUNDED[dtype], site
        assert distance(of_mine, logits).max() < 2 * ROUNDED[dtype], site
        same = (of_mine.argmax(1) == logits.argmax(1)).mean()
        assert same > (0.999 if dtype == "float32" else 0.97), site


def distance(mine: npt.NDArray[np.float32], own: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Of each row, relative to its length."""
    found: npt.NDArray[Any] = np.linalg.norm(mine - own, axis=1) / np.linalg.norm(own, axis=1)
    return found
