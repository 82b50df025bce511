"""The teacher from a store is the model's own distribution, and its loss the plain one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_capture import make_capture
from teachers import VOCABULARY, WIDTH, reference_logprobs, write_teacher
from torch.nn import functional

from lpp.store import Run
from lpp.store.errors import InputError
from lpp.store.teacher import Teacher, next_token_mask, teacher


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "store")


@pytest.fixture(scope="module")
def exact(run: Run) -> Teacher:
    return teacher(run)


def reference(exact: Teacher, final: torch.Tensor, temperature: float) -> np.ndarray:
    return reference_logprobs(exact.head, final.float(), temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("k", [1, 7, VOCABULARY])
def test_the_most_likely_tokens(exact: Teacher, k: int, temperature: float) -> None:
    batch = next(exact.prompts())
    targets = exact.targets(batch.hidden["final"], k=k, temperature=temperature)
    logp = reference(exact, batch.hidden["final"], temperature)
    assert targets.token_ids.tolist() == np.argsort(-logp, axis=1)[:, :k].tolist()
    expected = -np.sort(-logp, axis=1)[:, :k]
    np.testing.assert_allclose(targets.logprobs.numpy(), expected, atol=2e-5)


def test_of_equally_likely_tokens_the_lower_ids_come_first(exact: Teacher) -> None:
    """Logits of few digits often tie."""
    targets = exact.targets(np.zeros((2, WIDTH), np.float32), k=7, like="numpy")
    assert targets.token_ids.tolist() == [[*range(7)]] * 2


def test_samples_follow_the_distribution(exact: Teacher) -> None:
    final = next(exact.prompts()).hidden["final"][:2]
    targets = exact.targets(final, samples=200_000, seed=3)
    for row, logp in enumerate(reference(exact, final, 1.0)):
        shares = np.bincount(targets.token_ids[row], minlength=VOCABULARY) / 200_000
        assert np.abs(shares - np.exp(logp)).max() < 5 * 0.5 / 200_000**0.5
    again = exact.targets(final, samples=10, seed=4)
    assert torch.equal(again.token_ids, exact.targets(final, samples=10, seed=4).token_ids)
    assert not torch.equal(again.token_ids, exact.targets(final, samples=10, seed=5).token_ids)


def test_samples_of_a_prompt_depend_on_its_id_and_not_on_the_batch(exact: Teacher) -> None:
    batch = next(exact.prompts())
    prompts, final = batch.prompt_ids[batch.documents], batch.hidden["final"]
    ids = exact.targets(final, samples=9, seed=2, prompt_ids=prompts).token_ids
    alone = prompts == prompts[-1]
    assert 1 < alone.sum() < len(prompts)
    again = exact.targets(final[alone], samples=9, seed=2, prompt_ids=prompts[alone]).token_ids
    assert torch.equal(again, ids[alone])
    assert len({*map(tuple, ids.tolist())}) > len(ids) / 2


@pytest.mark.parametrize("tile_rows", [7, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_loss_and_its_gradient_are_those_of_all_logits(  # noqa: PLR0917
    exact: Teacher,
    direction: Any,
    temperature: float,
    bias: bool,
    tile_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lpp.store.teacher.torch_loss.LOGITS_BYTES", 4 * VOCABULARY * tile_rows)
    final = next(exact.prompts()).hidden["final"]
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(final), 5), (VOCABULARY, 5), *([(VOCABULARY,)] if bias else [])]
    mask = (torch.arange(len(final)) % 3 > 0).float()
    ours = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    loss = exact.loss(final, *ours, direction=direction, temperature=temperature, mask=mask)
    (3 * loss).backward()

    plain = [tensor.detach().double().requires_grad_() for tensor in ours]
    logits = plain[0] @ plain[1].T + (plain[2] if bias else 0)
    student = functional.log_softmax(logits / temperature, dim=1)
    expected = torch.from_numpy(reference(exact, final, temperature))
    p, q = (student, expected) if direction == "reverse" else (expected, student)
    whole = ((p.exp() * (p - q)).sum(dim=1) * mask).sum() / mask.sum()
    (3 * whole).backward()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    for tensor, other in zip(ours, plain, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(tensor.grad, other.grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("like", ["torch", "numpy"])
def test_the_mask_of_a_row_is_that_of_the_token_it_predicts(
    exact: Teacher, run: Run, like: Any
) -> None:
    stored = run.prompts("token.loss_mask")["token.loss_mask"].to_pylist()
    seen = 0
    for batch in exact.prompts(max_tokens=15, like=like):
        mask = next_token_mask(batch)
        for k, prompt in enumerate(batch.prompt_ids.tolist()):
            tokens = (stored[prompt] or [False])[1:]
            assert mask[batch.documents == k].tolist() == [*tokens, False]
            seen += 1
    assert seen == len(stored)


def test_a_head_that_does_not_learn_gets_no_gradient(exact: Teacher) -> None:
    final = next(exact.prompts()).hidden["final"]
    generator, gradients = torch.Generator(), list[torch.Tensor]()
    for learns in (True, False):
        generator.manual_seed(0)
        hidden = torch.randn((len(final), 5), generator=generator).requires_grad_()
        weight = torch.randn((VOCABULARY, 5), generator=generator).requires_grad_(learns)
        exact.loss(final, hidden, weight).backward()
        assert (weight.grad is not None) == learns
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give k=64"),
        ({"k": 2, "samples": 2}, "not both"),
        ({"k": VOCABULARY + 1}, "from 1 to 53"),
        ({"samples": 0}, "0 tokens"),
        ({"k": 1, "temperature": 0.0}, "temperature=0.0: above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    exact: Teacher, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        exact.targets(np.zeros((1, WIDTH), np.float32), **options)
    assert message in str(refused.value)


def test_a_run_without_its_head_is_no_teacher(tmp_path: Path) -> None:
    run = make_capture().write(tmp_path / "store")
    with pytest.raises(InputError, match="does not have the head of Lab/Tiny"):
        teacher(run)
