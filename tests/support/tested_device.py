"""The device that tests of capture compute on: the CPU, or what `LPP_TESTS_ON` names.

`sim` is the simulated card of `simulated_card`. It is then the accelerator that torch sees, and
goes the road of CUDA's cards: commands take it by default, as they would take a card.
"""

import os
from dataclasses import replace
from typing import Any, Final

DEVICE: Final = os.environ.get("LPP_TESTS_ON", "cpu")

if DEVICE == "sim":
    import simulated_card  # noqa: F401

    from lpp.capture.models import device

    # as a card of CUDA, with the sizes of the CPU: tests count batches, shards and blocks
    sizes = ("shard_bytes", "batch_tokens", "writing_tokens", "block_prompts")
    as_on_cpu = {name: getattr(device.KINDS["cpu"], name) for name in sizes}
    device.KINDS["sim"] = replace(device.KINDS["cuda"], tried="by tests", served=False, **as_on_cpu)
    device.__dict__["_DRIVERS"] = ("/",)  # so that torch is asked


def on_device(module: Any) -> Any:
    """The module, or a copy of it on the device."""
    if DEVICE == "cpu":
        return module
    import copy

    return copy.deepcopy(module).to(DEVICE)
