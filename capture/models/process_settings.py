"""Settings of torch that change numbers and are in no plan: the defaults, for one block."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from lpp.capture.models.device import choose_device


@contextmanager
def default_settings() -> Iterator[None]:
    """Until the block ends, torch computes as in a new process: float32 products in full precision,
    no autocast, new tensors in float32 on the CPU.

    No plan has these settings, so a notebook that changed them must not change a run.
    """
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with ExitStack() as settings:
        settings.callback(torch.set_float32_matmul_precision, precision)
        settings.callback(torch.set_default_dtype, dtype)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)
        for device in {"cpu", choose_device()[0]}:
            settings.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            settings.enter_context(torch.device("cpu"))
        yield
