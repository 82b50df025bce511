"""What docs/how-to/draft-models.md says of vLLM's drafts at a temperature on a processor."""

import pytest
import torch

from lpp.capture.backends.vllm.installed import silenced


@pytest.mark.slow
@pytest.mark.xfail(raises=AssertionError, reason="mended in vLLM? change draft-models.md")
def test_each_drafted_token_gets_the_temperature_of_its_request() -> None:
    """Two requests, with one drafted token and with two; vLLM 0.32 returns unwritten memory."""
    with silenced():  # importing vLLM warns
        from vllm.platforms import current_platform
        from vllm.v1.sample.rejection_sampler import expand_batch_to_tokens

        current_platform.register_triton_kernel_overrides()
    ends = torch.tensor([1, 3], dtype=torch.int32)
    expanded = expand_batch_to_tokens(torch.tensor([0.25, 0.75]), ends, 3)
    assert expanded.tolist() == [0.25, 0.75, 0.75]
