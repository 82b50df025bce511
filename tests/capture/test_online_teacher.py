"""A stored teacher trains a student as the teacher's own pass would: loss and gradients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from torch.nn import functional

from lpp.capture import capture
from lpp.store.teacher import Teacher, teacher
from lpp.store.teacher.torch_loss import DeviceHead

VOCABULARY = 211
LENGTHS = (9, 4, 1, 12, 7)


def tiny_llama(width: int, seed: int) -> Any:
    """A random model whose distributions are far from uniform, and from those of other seeds."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def online() -> Any:
    return tiny_llama(32, 0)


@pytest.fixture(scope="module")
def stored(online: Any, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Its rows of `final`, float32, and its head."""
    return stored_teacher(online, tmp_path_factory.mktemp("online") / "store")


def stored_teacher(model: Any, root: Path) -> Teacher:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in LENGTHS]
    run = capture(
        model,
        None,
        [{"input_ids": ids} for ids in prompts],
        store=root,
        context=max(LENGTHS),
        sites=["final"],
        keep_head="yes",
        quiet=True,
    )
    assert run.plan.stored_dtype == str(model.dtype).removeprefix("torch.")
    return teacher(run)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_loss_and_gradients_are_those_of_the_teachers_pass(
    online: Any, stored: Teacher, direction: Literal["forward", "reverse"], temperature: float
) -> None:
    batch = next(stored.prompts(max_tokens=sum(LENGTHS)))
    documents = list(documents_of(batch))
    assert sum(map(len, documents)) == sum(LENGTHS)
    grads: list[tuple[Any, ...]] = []
    for is_stored in (True, False):
        student = tiny_llama(16, 2)
        states = [student.model(ids[None]).last_hidden_state[0] for ids in documents]
        hidden, weight = torch.cat(states), student.lm_head.weight
        hidden.retain_grad()
        if is_stored:
            final = batch.hidden["final"]
            loss = stored.loss(final, hidden, weight, direction=direction, temperature=temperature)
        else:
            with torch.no_grad():
                logits = torch.cat([online(ids[None]).logits[0] for ids in documents])
            teachers = functional.log_softmax(logits / temperature, dim=-1)
            students = functional.log_softmax(hidden @ weight.T / temperature, dim=-1)
            pair = (teachers, students) if direction == "reverse" else (students, teachers)
            loss = functional.kl_div(*pair, reduction="batchmean", log_target=True)
        loss.backward()
        of_blocks = student.model.layers[0].mlp.up_proj.weight.grad
        grads.append((loss.detach(), hidden.grad, weight.grad, of_blocks))
    (loss, *gradients), (expected, *others) = grads
    assert expected > 0.1
    assert abs(loss - expected) < 1e-4  # nats
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient - other).norm() < 1e-3 * other.norm()


def test_products_in_bfloat16_are_those_of_the_models(tmp_path: Path) -> None:
    model = tiny_llama(32, 0).to(torch.bfloat16)
    stored = stored_teacher(model, tmp_path / "store")
    batch = next(stored.prompts(max_tokens=sum(LENGTHS)))
    final = batch.hidden["final"]
    with torch.no_grad():
        expected = torch.cat([model(ids[None]).logits[0] for ids in documents_of(batch)]).float()
    ours = DeviceHead(stored.head, torch.device("cpu")).logits(final)
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=1e-3)
    student = tiny_llama(16, 2)
    states = torch.randn(len(final), 16, generator=torch.Generator().manual_seed(3))
    values = []
    for dtype, autocast in (
        (torch.float32, False),
        (torch.float32, True),
        (torch.bfloat16, False),
    ):
        hidden, weight = (
            tensor.detach().to(dtype).clone().requires_grad_()
            for tensor in (states, student.lm_head.weight)
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = stored.loss(final, hidden, weight)
        gradients = torch.autograd.grad(loss, (hidden, weight))
        assert {gradient.dtype for gradient in gradients} == {dtype}
        values.append([loss.detach(), *(gradient.float() for gradient in gradients)])
    for exact, *rounded in zip(*values, strict=True):
        for value in rounded:
            assert 0 < (value - exact).norm() < 0.02 * exact.norm()


def documents_of(batch: Any) -> Iterator[torch.Tensor]:
    """The token ids of each prompt of a batch."""
    for k in range(len(batch.prompt_ids)):
        yield batch.token_ids[batch.documents == k]
