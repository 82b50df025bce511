"""The `lpp-capture run` command that a plan records."""

import shlex
from collections.abc import Mapping
from typing import Any, Final

from lpp.store.format.prompt_columns import LOSS_MASK, TOKEN_PREFIX

_OPTIONS: Final = (
    ("model", "id", "--model"),
    ("model", "revision", "--revision"),
    ("model", "untrained_seed", "--untrained-seed"),
    ("series", "name", "--series"),
    ("series", "step", "--step"),
    ("corpus", "name", "--corpus"),
    ("corpus", "revision", "--corpus-revision"),
    ("selection", "prompts", "--prompts"),
    ("selection", "min_tokens", "--min-tokens"),
    ("selection", "count_with", "--count-with"),
    ("selection", "min_bytes", "--min-bytes"),
    ("selection", "seed", "--seed"),
    ("plan", "context", "--context"),
    ("continuation", "tokens", "--continue"),
    ("continuation", "temperature", "--temperature"),
    ("continuation", "seed", "--generation-seed"),
    ("plan", "logit_positions", "--logit-positions"),
    ("compute", "backend", "--backend"),
    ("compute", "device", "--device"),
    ("compute", "dtype", "--dtype"),
    ("compute", "attention", "--attention"),
    ("compute", "device_map", "--device-map"),
    ("compute", "quantization", "--quantization"),
)
"""Fields of a plan that an option of `lpp-capture run` sets."""


def capture_command(document: Mapping[str, Any], store: str = "STORE") -> str:
    """`lpp-capture run` with the options that a plan records; empty without a plan, and for one
    whose rows another program collected.

    document: the plan's JSON. store: where the command writes.

    >>> plan = {"model": {"id": "a/b"}, "corpus": {"name": "pydoc"}, "sites": [{"name": "final"}]}
    >>> print(capture_command(plan, "./my store"))
    lpp-capture run --store './my store' \\
      --model a/b \\
      --corpus pydoc \\
      --sites final
    """
    if not document or part(document, "model").get("source") == "given":
        return ""
    continuation = part(document, "continuation")
    parts = {
        # texts were cut before the model wrote on, so that both together are the plan's context
        "plan": {**document, "context": continuation.get("given_context", document.get("context"))},
        "model": part(document, "model"),
        "series": part(part(document, "model"), "series"),
        "corpus": part(document, "corpus"),
        "selection": part(part(document, "corpus"), "selection"),
        "continuation": continuation,
        "compute": part(document, "compute"),
    }
    sites = [site["name"] for site in document.get("sites") or () if isinstance(site, dict)]
    words = [f"lpp-capture run --store {shlex.quote(store)}"]
    for name, field, option in _OPTIONS:
        value = parts[name].get(field)
        if value is not None:
            words.append(f"{option} {shlex.quote(str(value))}")
    template = part(parts["corpus"], "template").get("source")
    if template not in (None, "model"):
        words.append(f"--chat-template {shlex.quote(str(template))}")
    columns = part(document, "prompts").get("token_columns") or ()
    by_token = [name.removeprefix(TOKEN_PREFIX) for name in columns if name != LOSS_MASK]
    if by_token:
        words.append(f"--token-fields {shlex.quote(','.join(by_token))}")
    words.append(f"--sites {shlex.quote(','.join(sites))}")
    if dtype := stored_dtype(document, "auto"):
        words.append(f"--stored-dtype {shlex.quote(dtype)}")
    if parts["compute"].get("trust_remote_code"):
        words.append("--trust-remote-code")
    return " \\\n  ".join(words)


def stored_dtype(document: Mapping[str, Any], computed: str) -> str:
    """How rows of sites lie on disk, as --stored-dtype takes it; empty if all lie as computed.

    computed: stands for the type of rows as computed.
    """
    sites = [site for site in document.get("sites") or () if isinstance(site, dict)]
    own = {str(s.get("name")): s.get("dtype") for s in sites if s.get("convention") != "router"}
    rounded = [name for name, dtype in own.items() if dtype == "float8_e4m3"]
    others = [name for name in own if name not in rounded]
    if len(rounded) > len(others):
        return ",".join(("float8_e4m3", *(f"{name}={computed}" for name in others)))
    return ",".join(f"{name}=float8_e4m3" for name in rounded)


def part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object `name` of a document; an empty one where there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}
