"""lm-eval without its own lines, bars and processes."""

import io
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import Any, Final

import numpy as np

from lpp.capture.corpus.datasets import without_bars

SEEDS: Final = (0, 1234)
"""lm-eval's own, of Python's and of NumPy's random numbers: some tasks shuffle their answers."""


@contextmanager
def quiet_lm_eval(quiet: bool) -> Iterator[None]:
    """Keep lm-eval's warnings and bars, and those of data sets, off the terminal."""
    if not quiet:
        yield
        return
    from lm_eval.api import metrics, task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task.tqdm
    logger.setLevel(logging.CRITICAL)
    bootstrap = metrics._bootstrap_internal_no_mp
    # Neither an argument nor a log level turns these off.
    task.tqdm = partial(bar, disable=True)
    metrics._bootstrap_internal_no_mp = partial(_without_output, bootstrap)
    try:
        with without_bars():
            yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
        metrics._bootstrap_internal_no_mp = bootstrap


def _without_output(function: Callable[..., Any], *arguments: Any) -> Any:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return function(*arguments)


@contextmanager
def seeded() -> Iterator[None]:
    """The random numbers of lm-eval's command line, and its bootstrap in this process alone: forks
    of a process that runs a model may hang.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # tasks use these
    alone = os.environ.get("DISABLE_MULTIPROC")
    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])  # noqa: NPY002
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if alone is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = alone
