"""Models that carry several residual streams: a site holds all of them, side by side."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from causal_classes import VOCABULARY, small_model

from lpp.analyze import analyze
from lpp.capture import capture
from lpp.store.errors import FormatError
from lpp.store.format.plan import parse_plan

LENGTHS = (5, 31, 17, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["deepseek_v4", "gemma3n_text", "qwen4_exp_text"])
def test_rows_are_the_stack_that_the_model_reports(family: str, tmp_path: Path) -> None:
    """Four streams of 64: axis 2 in DeepSeek V4, axis 0 in Gemma 3n, one axis in Qwen4-Exp."""
    model = small_model(family)
    random = np.random.default_rng(3)
    prompts = [random.integers(3, VOCABULARY, n).tolist() for n in LENGTHS]
    texts = [{"input_ids": ids} for ids in prompts]
    run = capture(model, None, texts, store=tmp_path / "s", name=family, context=40)
    specs = {site.name: site for site in run.plan.sites}
    assert (specs["block.2"].width, specs["block.2"].streams) == (256, 4)
    assert (specs["final"].width, specs["final"].streams) == (64, 1)
    assert run.plan.format == 5

    starts = np.cumsum([0, *LENGTHS])
    for ids, start in zip(prompts, starts, strict=False):
        with torch.no_grad():
            reported = model(
                input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False
            ).hidden_states
        for k, state in enumerate(reported[:-1]):
            rows = run.array(f"block.{k}" if k else "embed")[start : start + len(ids)]
            for mine, stream in zip(np.split(rows, 4, axis=1), streams_of(state), strict=True):
                assert np.abs(mine - stream.numpy()).max() <= 1e-5 * float(stream.abs().max())
    profiles = analyze(tmp_path / "s").profiles()
    assert profiles.height
    assert not profiles["effective_rank"].is_nan().any()


def streams_of(state: torch.Tensor) -> list[torch.Tensor]:
    """The streams (tokens, 64) of what a model reports for one prompt."""
    if state.ndim == 3:  # (1, tokens, 4 x 64)
        return [*state[0].split(64, dim=1)]
    return [*(state[0].unbind(1) if state.shape[0] == 1 else state[:, 0])]


def test_streams_that_do_not_divide_the_width_are_damage(tmp_path: Path) -> None:
    model = small_model("gemma3n_text")
    texts = [{"input_ids": [4, 5, 6]}]
    run = capture(model, None, texts, store=tmp_path / "s", sites="embed", context=40)
    document = copy.deepcopy(run.plan.document)
    document["sites"][0]["streams"] = 3
    with pytest.raises(FormatError, match="site embed has 3 streams in 256 columns"):
        parse_plan(document, "plan.json")
