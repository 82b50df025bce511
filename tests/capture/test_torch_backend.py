"""The torch backend: the contract on every family, and what is torch's alone."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_contract import (
    BackendContract,
    Harness,
    branching_batch,
    make_batch,
    torch_backend,
)
from tested_device import DEVICE, on_device

from lpp.capture.backends.torch_passes import can_reuse, passes


class TestTorchBackend(BackendContract):
    @pytest.fixture
    def harness(self, family: str, tiny_model: Callable[[str], Any]) -> Harness:
        model = tiny_model(family)
        return Harness(
            backend=torch_backend(on_device(model)),
            reference=model,
            vocabulary=model.config.vocab_size,
        )


def test_padding_repeats_a_real_token_and_is_not_among_the_rows() -> None:
    (one,) = passes(make_batch([[7, 8], [5, 6, 9]]), shares=False, budget=100)
    assert one.ids.tolist() == [[7, 8, 7], [5, 6, 9]]
    assert one.ids.flatten()[one.picked].tolist() == [7, 8, 5, 6, 9]
    assert one.spans == [(0, 5)]


NOT_REUSED = {"falcon_alibi"}
"""A family that reads no positions, so that it cannot be tested with wrong ones."""


def test_branches_go_on_from_what_their_prompt_left_behind() -> None:
    batch, every = branching_batch(50)
    first, shared, alone = passes(batch, shares=True, budget=100)
    assert first.places.tolist() == [0, 3]
    assert (shared.places.tolist(), shared.n_before.tolist()) == ([1, 2, 4], [8, 5, 4])
    assert shared.beginnings.tolist() == [0, 0, 1]
    assert shared.ids.shape == (3, 2)
    assert (alone.ids.tolist(), alone.picked.tolist()) == ([every[5]], [6])
    rows = np.concatenate([one.rows for one in (first, shared, alone)])
    assert sorted(rows) == list(range(20))
    # ten tokens with what comes before: one branch at a time
    assert len(list(passes(batch, shares=True, budget=10))) == 5
    whole = list(passes(batch, shares=False, budget=100))
    assert [one.places.tolist() for one in whole] == [[0, 3], [1, 2, 4, 5]]
    assert not any(one.n_before.any() for one in whole)


SLIDING = ("gemma2", "gemma3", "mistral")
"""Families with windows, of five tokens; the first takes no sdpa."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


HALF = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[1:]]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_which_models_reuse_keys_and_values(
    family: str, dtype: torch.dtype, tiny_model: Callable[[str], Any]
) -> None:
    model = copy.deepcopy(tiny_model(family)).to(DEVICE, dtype)
    backend, before = torch_backend(model), _windows(model)
    assert backend.reuses is (family not in NOT_REUSED)
    assert _windows(model) == before
    assert bool(before) is (family in SLIDING)


def _windows(model: Any) -> list[int]:
    held = [vars(one).get("sliding_window") for one in (model.config, *model.modules())]
    return [window for window in held if window is not None]


def _positions(shift: int) -> Callable[[dict[str, Any]], None]:
    def change(inputs: dict[str, Any]) -> None:
        inputs["position_ids"] = inputs["position_ids"] + shift

    return change


def _positions_after_the_longest(inputs: dict[str, Any]) -> None:
    inputs["position_ids"] = inputs["position_ids"][:1].expand_as(inputs["position_ids"])


def _attended_padding(inputs: dict[str, Any]) -> None:
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])


def _dropped(key: int) -> Callable[[dict[str, Any]], None]:
    def change(inputs: dict[str, Any]) -> None:
        inputs["attention_mask"][:, key] = 0

    return change


WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "one position before": _positions(-1),
    "one position after": _positions(1),
    "two positions before": _positions(-2),
    "two positions after": _positions(2),
    "positions after the longest beginning": _positions_after_the_longest,
    "padding attended": _attended_padding,
    "first key dropped": _dropped(0),
    "second key dropped": _dropped(1),
}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("of", ["llama", "qwen2", "phi3", "gpt2", "gpt_neox", "opt", *SLIDING[1:]])
def test_a_wrong_continuation_is_never_reused(
    of: str, dtype: torch.dtype, attention: str, tiny_model: Callable[[str], Any]
) -> None:
    model = copy.deepcopy(tiny_model(of)).to(dtype)
    model.set_attn_implementation(attention)

    def reuses(
        change: Callable[[dict[str, Any]], None] = lambda inputs: None, noise: float = 0
    ) -> bool:
        torch.manual_seed(0)
        return _reuses(
            model,
            lambda inputs, config: change(inputs),
            lambda output, config: output[0].mul_(1 + noise * torch.randn_like(output[0])),
        )

    assert reuses()
    # kernels of a card round differently in every shape: float32 as TF32, which has ten bits
    assert reuses(noise=max(2**-10, torch.finfo(dtype).eps))
    assert [name for name, change in WRONG.items() if reuses(change)] == []


def _reuses(
    model: Any, before: Callable[[dict[str, Any], Any], None], after: Callable[[Any, Any], Any]
) -> bool:
    """`can_reuse`, with calls around each continuation: on (inputs, configuration), and on (output,
    configuration).
    """
    trunk = torch_backend(model)._modules.trunk

    def enter(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        if "position_ids" in inputs:  # only a continuation is given them
            before(inputs, module.config)

    def leave(module: Any, args: Any, inputs: dict[str, Any], output: Any) -> None:
        if "position_ids" in inputs:
            after(output, module.config)

    hooks = [
        trunk.register_forward_pre_hook(enter, with_kwargs=True),
        trunk.register_forward_hook(leave, with_kwargs=True),
    ]
    try:
        return can_reuse(model, trunk)
    finally:
        for hook in hooks:
            hook.remove()


def _window(shift: int) -> Callable[[dict[str, Any], Any], None]:
    def change(inputs: dict[str, Any], config: Any) -> None:
        config.sliding_window += shift

    return change


def _padding_after_beginnings(inputs: dict[str, Any], config: Any) -> None:
    """As if beginnings were aligned on the left: keys then lie further from the tokens after."""
    mask = inputs["attention_mask"]
    first = mask.argmax(1)  # (B,)
    cache: Any = inputs.get("cache", inputs.get("past_key_values"))
    held = cache.get_seq_length()
    for row, shift in enumerate(first.tolist()):
        mask[row, :held] = mask[row, :held].roll(-shift)
        for layer in cache.layers:
            for states in (layer.keys, layer.values):
                states[row] = states[row].roll(-shift, 1)


MISPLACED: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "window one shorter": _window(-1),
    "window one longer": _window(1),
    "padding after beginnings": _padding_after_beginnings,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("of", [*SLIDING, "llama"])
def test_a_continuation_with_wrong_windows_is_never_reused(
    of: str, dtype: torch.dtype, tiny_model: Callable[[str], Any]
) -> None:
    model = copy.deepcopy(tiny_model(of)).to(dtype)
    windows = []

    def reuses(change: Callable[[dict[str, Any], Any], None]) -> bool:
        def before(inputs: dict[str, Any], config: Any) -> None:
            windows.append(getattr(config, "sliding_window", None))
            change(inputs, config)

        def after(output: Any, config: Any) -> None:
            config.sliding_window = windows.pop()

        return _reuses(model, before, after)

    if of == "llama":  # without windows it does not matter where keys lie
        assert reuses(_padding_after_beginnings)
    else:
        assert [name for name, change in MISPLACED.items() if reuses(change)] == []


def test_next_ids_stop_at_the_end_of_each_prompt() -> None:
    batch = make_batch([[4, 5], [6], [7, 8, 9]], logit_rows=[0, 1, 2, 4, 5])
    assert batch.next_ids.tolist() == [5, -1, -1, 9, -1]


OOM = """
import logging, resource, sys
import numpy as np, torch
from backend_contract import captured as capture_batches
from backend_contract import make_batch, random_prompts, torch_backend
from transformers import GPT2Config, AutoModelForCausalLM

torch.set_num_threads(1)
torch.manual_seed(3)
config = GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=1, n_positions=4096)
config._attn_implementation = "eager"  # its scores are tokens x tokens: what a long prompt takes
model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
backend = torch_backend(model)
sites = ["embed", "final"]
lengths = [int(n) for n in sys.argv[1].split(",")]
small = make_batch(random_prompts(64, [4, 4]))
list(capture_batches(backend, [small], sites))  # what every pass needs is there
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
if sys.argv[3] == "fresh":
    backend._ran = False
together = make_batch(random_prompts(64, lengths))
try:
    (captured,) = capture_batches(backend, [together], sites)
except Exception as error:
    print(type(error).__name__, error)
else:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    afresh = torch_backend(model)
    alone = [make_batch([p]) for p in random_prompts(64, lengths)]
    kept = list(capture_batches(afresh, alone, sites))
    starts = np.cumsum([0, *lengths])
    for place, alone in enumerate(kept):
        rows = captured.batch.hidden["final"][starts[place]:starts[place + 1]]
        if place in captured.failed:
            assert not rows.any(), place
        else:
            np.testing.assert_allclose(rows, alone.batch.hidden["final"], atol=1e-5)
    print(sorted(captured.failed), captured.batch.prompt_ids == together.prompt_ids)
    print(*captured.failed.values(), sep="\\n")
"""


def starve(lengths: str, spare: int, state: str = "ran") -> tuple[list[str], str]:
    """Run one batch of such prompts with `spare` bytes of address space: the allocator refuses."""
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run(
        [sys.executable, "-c", OOM, lengths, str(spare), state],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(support), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_a_batch_that_does_not_fit_runs_in_halves() -> None:
    # scores of 8 x 1,000 x 1,000 float32 are 32 MB, several times over; of one prompt 4 MB
    (failed, *_), err = starve(",".join(["1000"] * 8), 64 << 20)
    assert failed == "[] True"
    assert err.count("it runs in halves") == 1
    assert "a batch of 8 prompts, 8000 tokens with padding" in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_a_prompt_that_does_not_fit_alone_has_failed_and_the_rest_goes_on() -> None:
    # 4,000 tokens are 64 MB of scores at a time, the others a few
    (failed, why, *_), _ = starve("4000,500,500,500", 96 << 20)
    assert failed == "[0] True"
    assert "can't allocate memory" in why


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux alone")
def test_where_nothing_ever_fitted_the_capture_ends() -> None:
    (said,), _ = starve("4000,4000", 64 << 20, "fresh")
    assert said.startswith("MachineError out of memory on a batch of 2 prompts, 8000 tokens")
