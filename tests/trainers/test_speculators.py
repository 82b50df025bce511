"""Ids and loss masks of conversations: ours equal those that speculators prepares.

speculators asks a server of vLLM to render each conversation; here a server on loopback renders
with transformers. It makes a row of each turn of the assistant: the conversation up to that turn,
with the mask of that turn alone. Ours is one row. Where a template keeps the history as it was, its
rows are beginnings of ours, and the union of its masks is ours: that is compared, token by token.
Where it does not, ours refuses the conversation.

Two more differences: messages after the last turn of the assistant stay in ours, as does a
conversation whose turns of the assistant all begin after the context. And speculators does not read
generation blocks: a template whose blocks begin elsewhere than its generation prompt ends (such as
deepseekv3_training of trl) has another mask there.
"""

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from speculators.data_generation.preprocessing import build_speculator_training_dataset
from transformers import AutoTokenizer

from lpp.capture import demo_model
from lpp.capture.corpus.conversations import choose_template
from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Refused
from lpp.capture.corpus.prompts import tokenise
from lpp.store.format.prompt_columns import LOSS_MASK

LONGEST = 8192
BY_PREFIXES = ("qwen2_5", "llama3", "gemma3", "cohere2", "lfm2_v2")
BY_GENERATION = ("cohere2", "qwen3", "gemma3", "glm4moe", "lfm2")
TEMPLATES = {
    **dict.fromkeys(BY_PREFIXES, 500),
    **{f"{family}_training": 100 for family in BY_GENERATION},
    "qwen3": 100,  # drops reasoning, and empty reasoning, from the history
}
"""Templates that trl ships, and conversations for each."""

WITH_TOOLS = ("qwen", "glm", "lfm2")
"""Beginnings of templates that render calls of tools."""

WORDS = (
    *("river", "Größe", "42", "日本語", "naïve", "🙂👩‍🚀", "<tag>", "{x}", "a\nb", "end.", "\t"),
    "الْعَرَبِيَّة",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def conversation(rng: random.Random, *, tools: bool) -> dict[str, Any]:
    """System turns, several turns of the assistant, empty contents, a call of a tool."""

    def content() -> str:
        return " ".join(rng.choices(WORDS, k=rng.choice([0, 1, 4, 20])))

    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": content()})
    with_tools = tools and rng.random() < 0.3
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": content()})
        if with_tools and rng.random() < 0.5:
            call = {"name": "weather", "arguments": {"city": content()}}
            calls = [{"type": "function", "function": call}]
            messages.append({"role": "assistant", "content": content(), "tool_calls": calls})
            messages.append({"role": "tool", "content": content()})
        messages.append({"role": "assistant", "content": content()})
    if rng.random() < 0.2:
        messages.append({"role": "user", "content": content()})
    return {"messages": messages, **({"tools": [TOOL]} if with_tools else {})}


@pytest.fixture(scope="module")
def tokenizer_folder() -> Path:
    return demo_model()


@pytest.fixture
def tokenizer_of(tokenizer_folder: Path) -> Callable[[str], Any]:
    """`tokenizer_of(template)`: SmolLM2's, with the special tokens that a template writes."""

    def made(template: str) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        special = {*re.findall(r"<\|[^|<>{}]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>", template)}
        tokenizer.add_tokens(sorted(special), special_tokens=True)
        tokenizer.chat_template = template
        return tokenizer

    return made


@pytest.fixture
def rendering() -> Iterator[Callable[[Any], str]]:
    """`rendering(tokenizer)`: address of a server that renders as vLLM's does."""
    servers: list[ThreadingHTTPServer] = []

    def serve(tokenizer: Any) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = tokenizer.apply_chat_template(
                    asked["messages"],
                    tools=asked.get("tools"),
                    add_generation_prompt=asked["add_generation_prompt"],
                    tokenize=False,
                )
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                answer = json.dumps({"token_ids": ids[: asked["truncate_prompt_tokens"]]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_masks_are_those_of_speculators(
    name: str,
    tokenizer_of: Callable[[str], Any],
    rendering: Callable[[Any], str],
    tmp_path: Path,
) -> None:
    template = files("trl").joinpath("chat_templates", f"{name}.jinja").read_text("utf-8")
    tokenizer, rng = tokenizer_of(template), random.Random(name)
    given = [conversation(rng, tools=name.startswith(WITH_TOOLS)) for _ in range(TEMPLATES[name])]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, given)), "utf-8")
    passages = list(open_corpus(tmp_path / "c.jsonl").passages)
    ours = choose_template(
        tokenizer, None, [p.conversation for p in passages if p.conversation is not None]
    )
    assert ours is not None
    assert ours.mask == ("generation" if name.endswith("training") else "prefixes")
    refused = Refused()
    prompts = tokenise(passages, tokenizer, LONGEST, refused, template=ours)
    rows = dict(zip(prompts["source_row"].to_pylist(), prompts.to_pylist(), strict=True))

    theirs = iter(
        build_speculator_training_dataset(
            Dataset.from_list(
                [
                    {"conversations": c["messages"], "tools": json.dumps(c.get("tools", []))}
                    for c in given
                ]
            ),
            tokenizer,
            max_length=LONGEST,
            num_proc=None,
            render_endpoint=rendering(tokenizer),
        )
    )
    split = 0
    for row, source in enumerate(given):
        turns = [message for message in source["messages"] if message["role"] == "assistant"]
        of_turns = [next(theirs) for _ in turns]
        ids = tokenizer.apply_chat_template(source["messages"], tools=source.get("tools"))
        ids = ids["input_ids"]
        union, begins = np.zeros(len(ids), bool), True
        for turn in of_turns:
            length = int(turn["seq_len"])
            begins &= turn["input_ids"].tolist() == ids[:length]
            union[:length][: len(ids)] |= turn["loss_mask"].numpy().astype(bool)[: len(ids)]
        if row in rows:
            assert begins
            assert rows[row]["token_ids"] == ids
            assert rows[row][LOSS_MASK] == union.tolist()
        elif not refused.why(row).startswith("repeated"):
            assert not begins
            assert refused.why(row).startswith("bad_template")
            split += 1
    assert next(theirs, None) is None
    assert 0 < split < len(given) if name == "qwen3" else split == 0
