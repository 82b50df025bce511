"""Conversations and token ids as a corpus, up to the run: ids, loss masks, what is set aside."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lpp.analyze.cli.command import main as analyze
from lpp.analyze.runs.capture_command import capture_command
from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.capture.corpus.conversations import ChatTemplate, choose_template, ids_and_mask
from lpp.capture.corpus.open import open_corpus, open_texts
from lpp.capture.corpus.passages import Passage, Refused
from lpp.capture.corpus.prompts import tokenise
from lpp.capture.corpus.rows import conversation_of
from lpp.sql import connect
from lpp.store import open_store
from lpp.store.errors import InputError
from lpp.store.format.prompt_columns import LOSS_MASK

CHAT = """{% for m in messages %}[{{ m.role[0] }}]{% if m.role == 'assistant' %}{% generation %}\
{{ m.content }};{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}\
{% if add_generation_prompt %}[a]{% endif %}"""
PLAIN = CHAT.replace("{% generation %}", "").replace("{% endgeneration %}", "")
FORGETFUL = PLAIN.replace(
    "{% if m.role == 'assistant' %}", "{% if m.role == 'assistant' %}{{ '!' if loop.last }}"
)
"""It marks the last answer, which has no mark once messages follow."""
MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hé?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": ""},
    {"role": "assistant", "content": None},
]


def spelled(tokenizer: Any, ids: list[int], mask: list[bool]) -> str:
    """The text of the tokens that the mask chooses."""
    return str(tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]))


@pytest.fixture
def bytewise() -> Any:
    """A tokenizer with a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("text", [CHAT, PLAIN], ids=["generation", "prefixes"])
def test_the_mask_is_the_turns_of_the_assistant(bytewise: Any, text: str) -> None:
    bytewise.chat_template = text
    conversation = conversation_of(MESSAGES)
    template = choose_template(bytewise, None, [conversation])
    assert template is not None
    assert template.mask == ("generation" if text == CHAT else "prefixes")
    assert template.info.sha256 == hashlib.sha256(text.encode()).hexdigest()
    ids, mask = ids_and_mask(bytewise, template, conversation, 1000)
    assert bytewise.decode(ids) == "[s]be kind;[u]hé?;[a]yes;[u];[a];"
    assert spelled(bytewise, ids, mask) == "yes;;"
    for context in range(1, len(ids)):  # a cut turn keeps its first tokens
        (row,) = tokenise(
            [Passage(0, "", conversation=conversation)], bytewise, context, template=template
        ).to_pylist()
        assert row["token_ids"] == ids[:context]
        assert row[LOSS_MASK] == mask[:context]
        assert row["truncated"]


def test_what_a_template_cannot_do_is_set_aside_with_the_message(bytewise: Any) -> None:
    conversations = [conversation_of(MESSAGES[1 : 2 + turns]) for turns in (1, 3)]
    for text, why in (
        (FORGETFUL, "cannot be split at message 1: it is rendered otherwise once later messages"),
        ("{{ raise_exception('alternate!') }}", "the template raises TemplateError: alternate!"),
        ("{{ messages[9].content.x }}", "the template raises UndefinedError"),
        (CHAT.replace("{{ m.content }};{% endg", "{% endg"), "marks no token of the assistant"),
    ):
        bytewise.chat_template = text
        template = choose_template(bytewise, None, conversations)
        refused = Refused()
        passages = [
            Passage(k, str(k), conversation=c, location=f"c.jsonl, line {k + 1}")
            for k, c in enumerate(conversations)
        ]
        if text == FORGETFUL:  # one turn can be split
            table = tokenise(passages, bytewise, 99, refused, template=template)
            assert table["source_row"].to_pylist() == [0]
        else:
            with pytest.raises(InputError, match=r"None of 2 texts .* bad_template, c\.jsonl, l"):
                tokenise(passages, bytewise, 99, refused, template=template)
        assert refused.why(1).startswith("bad_template, c.jsonl, line 2: ")
        assert why in refused.why(1)


def test_the_choice_of_a_template(bytewise: Any, tmp_path: Path) -> None:
    conversations = [conversation_of(MESSAGES)]
    with pytest.raises(InputError, match="has no chat template"):
        choose_template(bytewise, None, conversations)
    (tmp_path / "own.jinja").write_text(f"{{# a {{% generation %}} #}}{PLAIN}")
    file = str(tmp_path / "own.jinja")
    chosen = choose_template(bytewise, file, conversations)
    assert chosen is not None
    assert (chosen.source, chosen.mask, chosen.notes) == ("own.jinja", "prefixes", [])
    with pytest.raises(InputError, match="no chosen row has messages"):
        choose_template(bytewise, file, [])
    with pytest.raises(InputError, match=r"none\.jinja: cannot be read"):
        choose_template(bytewise, str(tmp_path / "none.jinja"), conversations)
    dated = ChatTemplate(text="{{ strftime_now('%d') }}", source="model", mask="prefixes")
    assert "the date of today" in dated.notes[0]


def test_messages_are_read_as_templates_expect_them() -> None:
    call = {"function": {"name": "f", "arguments": '{"city": null}'}}
    given = [
        {"content": None, "role": "assistant", "tool_calls": [call], "name": None},
        {"role": "tool", "content": [{"type": "text", "text": "x"}]},
    ]
    read = conversation_of(given, json.dumps([{"name": "f", "default": None}]))
    arguments = {"function": {"name": "f", "arguments": {"city": None}}}
    assert read.messages[0] == {"role": "assistant", "content": "", "tool_calls": [arguments]}
    assert read.messages[1] == given[1]
    assert read.tools == [{"name": "f", "default": None}]
    assert conversation_of(given, "").tools == ()


ASSISTANT = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "no message of the assistant"),
        ({"messages": [{"from": "gpt", "value": "a"}]}, "message 0 has no role"),
        ({"messages": [ASSISTANT, "b"]}, "message 1 is not an object"),
        ({"messages": [ASSISTANT, {"role": "user", "content": 3}]}, "of message 1 is not text"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "of message 0 is not text",
        ),
        ({"messages": [ASSISTANT], "tools": "[{"}, "'tools' is neither a list nor the JSON"),
        ({"messages": [ASSISTANT], "tools": ["f"]}, "'tools' is not a list of objects"),
        ({"messages": [{"role": "assistant", "content": "\ud83d"}]}, "not JSON in UTF-8"),
    ],
)
def test_a_row_that_is_no_conversation_is_set_aside(
    tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"messages": [ASSISTANT]}, row, {"messages": []}])))
    corpus = open_corpus(path)
    assert [passage.source_row for passage in corpus.passages] == [0]
    rows = corpus.refused.table().to_pylist()
    assert [(r["source_row"], r["reason"]) for r in rows] == [(1, "no_conversation"), (2, "empty")]
    assert rows[0]["detail"].startswith(f"{path}, line 2: ")
    assert says in rows[0]["detail"]


ROWS = [
    {"id": "a", "input_ids": [3, 1, 2], "loss_mask": [0, 0, 1], "reward": [0.5, 1.0, -1.0]},
    {"id": "b", "input_ids": [4, 5], "loss_mask": [1, 0], "reward": None},
    {"id": "c", "input_ids": None, "loss_mask": None, "reward": None},
]


def saved(tmp_path: Path, kind: str) -> Path:
    """`ROWS` as a corpus on disk."""
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "arrow":
        with pa.ipc.new_file(path, (table := pa.Table.from_pylist(ROWS)).schema) as writer:
            writer.write_table(table)
    else:
        datasets.Dataset.from_list(ROWS).save_to_disk(path, num_shards=2)
        (path / "cache-0.arrow").write_bytes(b"what the library keeps")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "saved"])
def test_token_ids_and_values_by_token_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    corpus = open_corpus(saved(tmp_path, kind), token_fields=["reward"])
    assert corpus.rule == "field input_ids"
    assert [(p.source_row, p.text) for p in corpus.passages] == [(0, "3 1 2"), (1, "4 5")]
    table = tokenise(list(corpus.passages), None, 2, size=6, per_token=corpus.fields.per_token)
    assert table["token_ids"].to_pylist() == [[3, 1], [4, 5]]
    assert table["truncated"].to_pylist() == [True, False]
    assert table[LOSS_MASK].to_pylist() == [[False, False], [True, False]]
    assert table["token.reward"].to_pylist() == [[0.5, 1.0], None]


@pytest.mark.parametrize("door", ["jsonl", "parquet", "csv", "python"])
@pytest.mark.parametrize("field", ["messages", "chat"])
def test_messages_as_a_string_of_json_are_messages(tmp_path: Path, door: str, field: str) -> None:
    path, bad = tmp_path / f"c.{door}", '[{"role": "assistant"'
    rows = [{field: json.dumps(MESSAGES)}, {field: json.dumps(MESSAGES[:2])}, {field: bad}]
    if door == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif door == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif door == "csv":
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([[field], *([row[field]] for row in rows)])
    given: Any = rows if door == "python" else path
    corpus = (open_texts if door == "python" else open_corpus)(given, text_field=field)
    first, *others = corpus.passages
    listed = next(iter(open_texts([{"messages": MESSAGES}]).passages))
    assert (first.text, first.conversation) == (listed.text, listed.conversation)
    assert corpus.refused.why(1).startswith("no_conversation, ")
    if field == "messages":  # a string there is JSON or nothing
        assert corpus.refused.why(2).startswith("no_conversation, ")
        assert not others
    else:
        assert [(passage.text, passage.is_text) for passage in others] == [(bad, True)]


def test_rows_of_tokens_that_are_set_aside() -> None:
    values: list[tuple[list[int], dict[str, Any], str]] = [
        ([1, 6], {}, "bad_tokens, row 0 of the corpus: id 6, the model has 0 to 5"),
        ([-1], {}, "bad_tokens, row 1 of the corpus: id -1"),
        ([1, 2], {"loss_mask": [1]}, "'loss_mask' has 1 values for 2 tokens"),
        ([1, 2], {"loss_mask": [0, 2]}, "'loss_mask' is not a list of 0 and 1"),
        ([1, 2], {"r": ["a", "b"]}, "'r' is not a list of numbers, or of true and false"),
        ([1, 2], {"r": [1, True]}, "'r' is not a list of numbers, or of true and false"),
        ([1, 2], {"r": [2**70, 1]}, "'r' has a value beyond 64 bits"),
        ([1, 2], {"r": "ab"}, "'r' is not a list with a value for each token"),
        ([1, 2], {"r": [1, 2]}, ""),
        ([1, 2], {"r": [1, 2]}, "repeated, row 9 of the corpus: the same as row 8"),
        ([1, 2], {"r": np.array([2.5, 1])}, ""),
    ]
    refused = Refused()
    corpus = [{"input_ids": ids, **fields} for ids, fields, _ in values]
    passages = [
        Passage(p.source_row, p.text, p.fields, given=p.given)
        for p in open_texts(corpus, token_fields=["r"]).passages
    ]
    table = tokenise(passages, None, 9, refused, size=6, per_token=["r"])
    assert table["source_row"].to_pylist() == [8, 10]
    assert table["token.r"].to_pylist() == [[1.0, 2.0], [2.5, 1.0]]
    for row, (_, _, why) in enumerate(values):
        assert why in refused.why(row)
        assert bool(why) == (row in refused)
    corpus = [{"input_ids": [1], "r": [True]}, {"input_ids": [2], "r": [1]}]
    with pytest.raises(InputError, match="field 'r': true and false"):
        tokenise([*open_texts(corpus, token_fields=["r"]).passages], None, 9, per_token=["r"])


def conversations(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q {k}"}, {"role": "assistant", "content": "a"}]}
        for k in range(count)
    ]


def test_a_run_of_conversations(
    load: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = load("llama")
    rows = [*conversations(), {"messages": [{"role": "user", "content": "alone"}]}]
    runs = []
    for name, text in (("chat", CHAT), ("plain", PLAIN)):
        (tmp_path / f"{name}.jinja").write_text(text)
        with pytest.warns(UserWarning, match="set aside: 1 no_conversation"):
            run = capture(
                model,
                tiny_tokenizer,
                rows,
                store=tmp_path / "store",
                context=24,
                chat_template=str(tmp_path / f"{name}.jinja"),
            )
        runs.append(run)
        assert run.verify() == []
        assert (run.plan.format, run.plan.prompts.token_columns) == (5, (LOSS_MASK,))
        assert run.plan.corpus.template is not None
        assert run.plan.corpus.template.source == f"{name}.jinja"
        assert f"--chat-template {name}.jinja" in capture_command(run.plan.document)
        tokens = run.tokens(LOSS_MASK).to_table()
        assert tokens["token_id"].to_pylist() == [
            i for ids in run.prompts()["token_ids"].to_pylist() for i in ids
        ]
        chosen = tokens.filter(tokens[LOSS_MASK])["token_id"].to_pylist()
        assert tiny_tokenizer.decode(chosen).replace(" ", "") == "a;" * 6
    assert len({run.id for run in runs}) == 2
    assert len({run.plan.corpus.prompt_set for run in runs}) == 1  # whatever renders them
    ids = [{"input_ids": [1, 2], "loss_mask": [0, 1]}]
    with pytest.raises(InputError, match="continue_tokens: the prompts have values by token"):
        capture(model, None, ids, store=tmp_path / "s", context=9, continue_tokens=3)
    with pytest.raises(InputError, match="the tokenizer is None"):
        capture(model, None, ["text"], store=tmp_path / "s", context=9)


def test_a_model_without_a_tokenizer_reads_token_ids(
    tiny_model: Callable[[str], Any], tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "bare")
    command = ["run", "--model", f"{tmp_path}/bare", "--store", f"{tmp_path}/store"]
    command += ["--context", "20", "--fields", "id", "--corpus"]
    (tmp_path / "t.txt").write_text("a text")
    refused = CliRunner().invoke(main, [*command[:-3], "--corpus", f"{tmp_path}/t.txt"])
    assert refused.exit_code == 2
    path = saved(tmp_path, "jsonl")
    done = CliRunner().invoke(main, [*command, str(path), "--token-fields", "reward"])
    assert done.exit_code == 0, done.output
    assert "with loss_mask, reward (null in 1 of 2 prompts) for each token" in done.output
    (run,) = open_store(tmp_path / "store").runs.values()
    assert "--token-fields reward \\\n" in capture_command(run.plan.document)
    assert not run.plan.tokenizer.exists
    assert (run.vocabulary(), run.verify()) == (None, [])
    values = run.tokens("token.reward", LOSS_MASK).to_table()
    assert values["token.reward"].to_pylist() == [0.5, 1.0, -1.0, None, None]
    assert values[LOSS_MASK].to_pylist() == [False, False, True, True, False]
    again = CliRunner().invoke(main, [*command, str(path), "--token-fields", "reward"])
    assert again.exit_code == 0, again.output
    assert len(open_store(tmp_path / "store").runs) == 1
    assert CliRunner().invoke(analyze, ["profile", f"{tmp_path}/store"]).exit_code == 0
    with connect(tmp_path / "store") as database:
        query = "SELECT token_id, loss_mask FROM token_stats ORDER BY prompt_id, position"
        rows = database.sql(query).fetchall()
    assert rows == [(3, False), (1, False), (2, True), (4, True), (5, False)]
    repaired = CliRunner().invoke(
        main, ["repair", f"{tmp_path}/store", "--model", f"{tmp_path}/bare"]
    )
    assert repaired.exit_code == 0, repaired.output
    unknown = CliRunner().invoke(main, [*command, str(path), "--token-fields", "rewards"])
    assert unknown.exit_code == 2
    assert "Did you mean --token-fields reward?" in unknown.output
