"""Programs of other projects, unmodified: `make test-trainers` has an environment for them."""

from importlib.util import find_spec

import pytest

if find_spec("speculators") is None or find_spec("sae_lens") is None:
    collect_ignore_glob = ["test_*.py"]

LIBRARIES = (
    *("torch", "torchdata", "speculators", "datasets", "transformers", "multiprocess"),
    *("sae_lens", "dictionary_learning"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Trainers and what they import warn of their own affairs; our code still may not."""
    for category in ("DeprecationWarning", "FutureWarning", "UserWarning"):
        for library in LIBRARIES:
            config.addinivalue_line("filterwarnings", f"ignore::{category}:{library}.*")
