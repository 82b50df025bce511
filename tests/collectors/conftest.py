"""Rows that TransformerLens and nnsight collect: `make test-collectors` has an environment."""

from importlib.util import find_spec

if find_spec("nnsight") is None or find_spec("transformer_lens") is None:
    collect_ignore_glob = ["test_*.py"]
