"""The teacher from a store is the model's own distribution, and its loss the plain one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_capture import make_capture
from teachers import VOCABULARY, WIDTH, reference_logprobs, write_teacher
from torch.nn import functional

from lpp.store import Run, open_store
from lpp.store.errors import FormatError, InputError
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
        ({"k": 2.0}, "k=2.0"),
        ({"samples": 0}, "samples=0"),
        ({"samples": 1, "seed": -1}, "seed=-1"),
        ({"samples": 1, "prompt_ids": [1, 2]}, "prompt_ids"),
        ({"samples": 1, "prompt_ids": [-1]}, "prompt_ids"),
        ({"k": 1, "temperature": 0.0}, "temperature=0.0"),
        ({"k": 1, "temperature": -1}, "temperature=-1"),
        ({"k": 1, "temperature": float("nan")}, "temperature=nan"),
        ({"k": 1, "like": "jax"}, "like='jax'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    exact: Teacher, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        exact.targets(np.zeros((1, WIDTH), np.float32), **options)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "backward"}, "direction='backward'"),
        ({"direction": "Reverse"}, "Did you mean reverse"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"mask": torch.zeros(4)}, "sum is 0.0"),
        ({"mask": torch.full((4,), float("nan"))}, "sum is nan"),
        ({"mask": torch.ones(3)}, "(3,)"),
        ({"hidden": torch.zeros(5, 2)}, "(5, 2)"),
    ],
)
def test_a_loss_that_would_mean_nothing_is_refused(
    exact: Teacher, options: dict[str, Any], message: str
) -> None:
    final, weight = np.zeros((4, WIDTH), np.float32), torch.zeros(VOCABULARY, 2)
    with pytest.raises(InputError) as refused:
        exact.loss(final, options.pop("hidden", torch.zeros(4, 2)), weight, **options)
    assert message in str(refused.value)


def test_samples_of_another_batch_have_other_random_numbers(exact: Teacher) -> None:
    """Equal rows of one batch too."""
    rows = np.zeros((3, WIDTH), np.float32)
    first, again = (exact.targets(rows, samples=64, like="numpy").token_ids for _ in range(2))
    other = exact.targets(rows + np.float32(1e-3), samples=64, like="numpy").token_ids
    assert (first == again).all()
    assert len({*map(tuple, [*first.tolist(), *other.tolist()])}) == 6


def test_logits_in_float32_are_not_rounded(run: Run, tmp_path: Path) -> None:
    head = run.head()
    assert head is not None
    rounded = Teacher(run)
    rounded.head.dtype = "bfloat16"  # as if the model computed in it
    final = np.concatenate([*run.hidden("final")])
    exactly = reference_logprobs(head, final)
    for source, least, most in (
        (rounded, 1e-3, 0.2),
        (teacher(run, logits="float32"), 0, 1e-5),
    ):
        ((_, logp),) = source.logprobs(final)
        assert least <= np.abs(logp - exactly).max() <= most
    rounded.head = rounded.head.unrounded()
    hidden, weight = torch.from_numpy(final), torch.from_numpy(head.weight)
    assert rounded.loss(final, hidden, weight).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="logits='float16'"):
        teacher(run, logits="float16")  # type: ignore[arg-type]


def test_a_mask_that_the_prompts_lack(exact: Teacher) -> None:
    with pytest.raises(InputError, match="loss_mask"):
        next_token_mask(next(exact.prompts()), "weights")


def test_a_run_with_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    run = write_teacher(tmp_path / "store")
    (record,) = (tmp_path / "store").glob("runs/*/shards/00001/COMMIT.json")
    record.write_bytes(record.read_bytes()[:-20])
    again = teacher(open_store(tmp_path / "store").runs[run.id])
    with pytest.raises(FormatError, match="00001"):
        again.prompts()
    feed = again.prompts(on_damage="skip", like="numpy")
    assert sorted(k for batch in feed for k in batch.prompt_ids) == [0, 1, 2, 3]
    assert len(feed.damage) == 1


def test_a_run_without_its_head_is_no_teacher(tmp_path: Path) -> None:
    run = make_capture().write(tmp_path / "store")
    with pytest.raises(InputError, match="does not have the head of Lab/Tiny"):
        teacher(run)
