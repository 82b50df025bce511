"""Chat templates of strangers: limits of time and memory, and the texts of transformers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lpp.capture.cli.command import main
from lpp.capture.corpus import template_process
from lpp.capture.corpus.conversations import ChatTemplate, ids_and_mask, rendered
from lpp.capture.corpus.rows import conversation_of
from lpp.store.errors import InputError, LppError

TURNS = [{"role": "user", "content": "hé\u2028?\ud7ff"}, {"role": "assistant", "content": "yes 🙂"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = "{{ 'x' * 10 ** 10 }}"
"""Folded when it is compiled."""
GROWING = (
    "{% set n = namespace(t='x') %}"
    "{% for a in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}"
)
LONG = "{{ messages[0].content * 10 ** 7 }}"


@pytest.fixture(scope="module", autouse=True)
def short_time() -> Iterator[None]:
    """A process with a shorter limit, for all templates here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_process, "SECONDS", 1)
        template_process._PROCESS.stop()
        yield
        template_process._PROCESS.stop()


def of(text: str) -> ChatTemplate:
    mask: Any = "generation" if "{% generation" in text else "prefixes"
    return ChatTemplate(text=text, source="model", mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("text", [ENDLESS, HUGE, GROWING, LONG])
@pytest.mark.parametrize("block", ["", "{% generation %}a{% endgeneration %}"])
def test_a_template_beyond_a_limit_is_one_error(tiny_tokenizer: Any, text: str, block: str) -> None:
    conversation = conversation_of(TURNS)
    with pytest.raises(InputError, match="the chat template takes over") as caught:
        ids_and_mask(tiny_tokenizer, of(text + block), conversation, 99)
    assert len(str(caught.value).splitlines()) == 1
    assert rendered(tiny_tokenizer, of("{{ bos_token }}"), conversation) == "<s>"  # another goes on


@pytest.mark.slow
def test_a_command_ends_with_one_error_and_writes_nothing(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    )
    (tmp_path / "own.jinja").write_text(ENDLESS)
    words = ["run", "--model", str(tiny_folder("llama")), "--corpus", f"{tmp_path}/c.jsonl"]
    words += ["--chat-template", f"{tmp_path}/own.jinja", "--store", f"{tmp_path}/store"]
    words += ["--context", "20"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert "--chat-template" in done.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{{ tools | tojson if tools }}{% if add_generation_prompt %}<a>{% endif %}",
        "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}"
        "{% endfor %}",
        "{{ strftime_now('%Y') }}",
    ],
)
def test_texts_and_masks_are_those_of_transformers(tiny_tokenizer: Any, text: str) -> None:
    conversation = conversation_of(TURNS, [{"name": "f", "parameters": {"x": [1.5, None, True]}}])
    how: Any = {"tools": list(conversation.tools), "chat_template": text}
    for prompted in (False, True):
        expected = tiny_tokenizer.apply_chat_template(
            list(conversation.messages), tokenize=False, add_generation_prompt=prompted, **how
        )
        assert rendered(tiny_tokenizer, of(text), conversation, prompted=prompted) == expected
    if "generation %}" in text:
        masked = tiny_tokenizer.apply_chat_template(
            list(conversation.messages),
            return_dict=True,
            return_assistant_tokens_mask=True,
            **how,
        )
        ids, mask = ids_and_mask(tiny_tokenizer, of(text), conversation, 999)
        assert ids == masked["input_ids"]
        assert mask == [bool(token) for token in masked["assistant_masks"]]
        assert any(mask)


@pytest.mark.slow
def test_the_process_that_renders_has_no_torch_and_ends_with_its_input() -> None:
    code = (
        "import sys; from lpp.capture.corpus.template_process import answer_questions;"
        "answer_questions(); print(sys.modules['torch'])"
    )
    words = [sys.executable, "-c", code, "9", str(1 << 30), "99"]
    done = subprocess.run(words, input=b"", capture_output=True, check=True)
    assert done.stdout == b"None\n"


@pytest.mark.slow
def test_a_process_that_was_ended_is_an_error_and_the_next_template_starts_another(
    tiny_tokenizer: Any,
) -> None:
    conversation = conversation_of(TURNS)
    assert rendered(tiny_tokenizer, of("a"), conversation) == "a"
    running = template_process._PROCESS._running
    assert running is not None
    running.kill()
    running.wait()
    with pytest.raises(LppError, match="ended"):
        rendered(tiny_tokenizer, of("a"), conversation)
    assert rendered(tiny_tokenizer, of("a"), conversation) == "a"


def test_comments_are_found_in_one_pass() -> None:
    """A pattern that tries each `{#` to the end would take hours."""
    assert ChatTemplate(text="{#" * 2**17 + "strftime_now", source="m", mask="prefixes").notes == []
    for text, dated in (("{# {# strftime_now #}", 0), ("{# a #} strftime_now {# b #}", 1)):
        assert len(ChatTemplate(text=text, source="m", mask="prefixes").notes) == dated
