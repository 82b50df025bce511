"""Drift from two stores against the two models: both loaded, their logits compared directly."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from lpp.analyze.drift.pair import Pair
from lpp.analyze.drift.predictions import token_drift
from lpp.analyze.runs.keys import RunView
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, open_store

PROMPTS = 6


@pytest.fixture(scope="module")
def folders(
    tiny_model: Callable[[str], Any],
    tiny_folder: Callable[[str], Path],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A model, and the same one with every matrix rounded to 8 bits, a scale for each row."""
    rounded = copy.deepcopy(tiny_model("gemma2"))
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.ndim > 1:
                scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-9) / 127
                weight.copy_((weight / scale).round() * scale)
    folder = tmp_path_factory.mktemp("rounded") / "eight-bits"
    rounded.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return tiny_folder("gemma2"), folder


def captured(root: Path, folder: Path, dtype: Any, corpus: Path) -> Run:
    request = CaptureRequest(
        model=ModelSpec(id=str(folder), dtype=dtype),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=PROMPTS, min_bytes=0),
        context=40,
        sites=("final",),
        keep_head="yes",
    )
    done = capture_into(root, request)
    return open_store(root).runs[done.run]


def reference(z_p: torch.Tensor, z_q: torch.Tensor) -> tuple[Any, Any]:
    """KL and flips of (n, V) logits of the models, in float64."""
    p, q = (z.double().log_softmax(dim=1) for z in (z_p, z_q))
    kl = (p.exp() * (p - q)).sum(dim=1)
    return kl.numpy(), (z_p.argmax(dim=1) != z_q.argmax(dim=1)).numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_divergences_are_those_of_the_logits_of_both_models(
    dtype: Any, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """In float32 of whole forward passes; in bfloat16 what another batch rounds otherwise would be
    all there is to see, so there of the models' last steps on the rows that were captured.
    """
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n\n".join(f"the dog {n} and the fox {n * 7} " * 4 for n in range(PROMPTS)))
    runs = [captured(tmp_path / "s", folder, dtype, corpus) for folder in folders]
    logits = []
    for run, folder in zip(runs, folders, strict=True):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        with torch.inference_mode():
            if dtype == "float32":
                ids = run.prompts()["token_ids"].to_pylist()
                logits.append(torch.cat([model(torch.tensor([some])).logits[0] for some in ids]))
            else:
                rows = torch.from_numpy(np.concatenate(list(run.hidden("final")))).bfloat16()
                z, cap = model.lm_head(rows), model.config.final_logit_softcapping
                logits.append(torch.tanh(z / cap) * cap)
    kl, flips = reference(*logits)
    pair = Pair(
        a=RunView(runs[0]),
        b=RunView(runs[1]),
        n_prompts=PROMPTS,
        excluded=np.empty(0, np.int32),
    )
    found = token_drift(pair)
    large = kl > 1e-6
    assert large.sum() > 100
    np.testing.assert_allclose(found["kl"].to_numpy()[large], kl[large], rtol=1e-4, atol=2e-9)
    np.testing.assert_array_equal(found["flip"].to_numpy(), flips)
    same = Pair(a=pair.a, b=pair.a, n_prompts=PROMPTS, excluded=pair.excluded)
    assert token_drift(same)["kl"].sum() == 0
