"""Passages to token ids, with a real fast tokenizer made here: one id per byte."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from stored import stored_objects

from lpp.capture.cli.command import main
from lpp.capture.corpus.passages import Passage, Refused
from lpp.capture.corpus.prompts import token_counter, tokenise
from lpp.capture.corpus.selection import Selection
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.rows import prompts_sha256
from lpp.store.format.tables import PROMPTS_SCHEMA
from lpp.store.settings.reading import made

FIRST, LAST = 256, 257
"""Ids of the special tokens: bytes are 0 to 255."""


def byte_tokenizer(*, special: bool) -> Any:
    """A byte-level tokenizer; with `special`, texts come as FIRST, bytes, LAST.

    It is saved with truncation and padding switched on, as some model folders are: neither
    may reach a prompt.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate(alphabet)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", FIRST), ("</s>", LAST)]
        )
    made.enable_truncation(3)
    made.enable_padding(length=9, pad_id=7)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def plain() -> Any:
    return byte_tokenizer(special=False)


@pytest.fixture(scope="module")
def special() -> Any:
    return byte_tokenizer(special=True)


PASSAGES = [Passage(11, "abc"), Passage(5, "héllo 🙂"), Passage(7, "abcd")]


def test_columns(plain: Any) -> None:
    table = tokenise(PASSAGES, plain, context=4)
    abcd = plain.convert_tokens_to_ids(list("abcd"))
    assert table.schema.equals(PROMPTS_SCHEMA)
    assert table["prompt_id"].to_pylist() == [0, 1, 2]
    assert table["source_row"].to_pylist() == [11, 5, 7]
    assert table["token_ids"].to_pylist()[0] == abcd[:3]
    assert table["token_ids"].to_pylist()[2] == abcd
    assert table["n_tokens"].to_pylist() == [3, 4, 4]
    assert table["truncated"].to_pylist() == [False, True, False]


def test_sha256_is_that_of_little_endian_int32(special: Any) -> None:
    ids = tokenise([Passage(0, "a")], special, context=9)
    (a,) = special.convert_tokens_to_ids(["a"])
    raw = bytes([0, 1, 0, 0, a, 0, 0, 0, 1, 1, 0, 0])  # 256, a, 257
    assert ids["token_ids"].to_pylist() == [[FIRST, a, LAST]]
    assert ids["sha256"].to_pylist() == [hashlib.sha256(raw).hexdigest()]


def test_special_tokens_stay_and_a_cut_is_a_prefix(special: Any) -> None:
    whole = tokenise(PASSAGES, special, context=100)["token_ids"].to_pylist()
    assert all(ids[0] == FIRST and ids[-1] == LAST for ids in whole)
    for context in (1, 2, 5, 6):
        table = tokenise(PASSAGES, special, context=context)
        assert table["token_ids"].to_pylist() == [ids[:context] for ids in whole]
        assert table["truncated"].to_pylist() == [len(ids) > context for ids in whole]


def test_a_text_without_tokens_is_set_aside(plain: Any) -> None:
    refused = Refused()
    passages = [Passage(4, "a"), Passage(31, ""), Passage(32, "b")]
    table = tokenise(passages, plain, context=4, refused=refused)
    assert table["source_row"].to_pylist() == [4, 32]
    assert table["prompt_id"].to_pylist() == [0, 1]
    (row,) = refused.table().to_pylist()
    assert (row["source_row"], row["reason"]) == (31, "no_tokens")
    with pytest.raises(InputError, match=r"None of 1 texts .* no_tokens, row 31") as e:
        tokenise([Passage(31, "")], plain, context=4)
    assert e.value.kind == ErrorKind.INVALID_VALUE


def test_context_of_nothing_is_refused(plain: Any) -> None:
    with pytest.raises(InputError, match="--context 0"):
        tokenise(PASSAGES, plain, context=0)


def test_digest_follows_tokens_and_order_alone(plain: Any) -> None:
    digest = prompts_sha256(tokenise(PASSAGES, plain, context=4))
    each = [bytes.fromhex(h) for h in tokenise(PASSAGES, plain, context=4)["sha256"].to_pylist()]
    assert digest == hashlib.sha256(b"".join(each)).hexdigest()
    moved = [Passage(p.source_row + 1, p.text) for p in PASSAGES]
    assert prompts_sha256(tokenise(moved, plain, context=4)) == digest
    assert prompts_sha256(tokenise(PASSAGES[::-1], plain, context=4)) != digest
    assert prompts_sha256(tokenise(PASSAGES, plain, context=3)) != digest
    assert prompts_sha256(pa.table({"sha256": pa.array([], pa.string())})) == (
        hashlib.sha256().hexdigest()
    )


def test_counter_leaves_special_tokens_out(special: Any) -> None:
    assert token_counter(special)("héllo") == 6
    assert token_counter(special)("") == 0


@pytest.mark.parametrize("ids", [[1, 131], [-1], [1.0], [True], ["a"], [None], 3, [2**40]])
def test_what_is_no_list_of_ids_is_refused(ids: object) -> None:
    def hostile(texts: list[str], **options: object) -> dict[str, object]:
        return {"input_ids": [ids for _ in texts]}

    with pytest.raises(InputError, match="not a list of ids below 131"):
        tokenise([Passage(0, "a")], hostile, context=9, size=131)


def test_a_tokenizer_that_fails_or_loses_texts_is_refused() -> None:
    def without_ids(texts: list[str], **options: object) -> dict[str, object]:
        return {}

    def without_texts(texts: list[str], **options: object) -> dict[str, object]:
        return {"input_ids": []}

    for hostile, message in (
        (without_texts, "0 lists of ids for 1 texts"),
        (without_ids, "KeyErr"),
    ):
        with pytest.raises(InputError, match=message):
            tokenise([Passage(0, "a")], hostile, context=9)


def test_all_texts_of_a_file_of_ones_own_are_taken() -> None:
    own = {"corpus": "mine.jsonl", "model": "m"}
    for given, expected in (
        (own, Selection(prompts=100, unasked=True, min_bytes=0)),
        ({**own, "prompts": 7}, Selection(prompts=7, min_bytes=0)),
        ({**own, "prompts": "all"}, Selection(prompts=None, min_bytes=0)),
        ({**own, "min-bytes": 40}, Selection(prompts=100, unasked=True, min_bytes=40)),
        ({**own, "corpus": "pydoc"}, Selection(prompts=100, unasked=True, min_bytes=512)),
        (
            {**own, "corpus": "pydoc", "min-tokens": 9, "count-with": "m"},
            Selection(prompts=100, unasked=True, min_bytes=0, min_tokens=9, count_with="m"),
        ),
    ):
        assert request_of(made(CaptureSettings, given)).selection == expected


@pytest.mark.slow
def test_the_run_of_all_texts_is_that_of_their_number(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n\n".join(["the dog and the fox " * 3] * 5 + ["a dog"]))
    words = ["run", "--model", str(tiny_folder("llama")), "--corpus", "texts.txt"]
    words += ["--context", "10", "--sites", "final", "--store"]
    outputs = []
    for store, more in (
        ("default", []),
        ("six", ["--prompts", "6", "--min-bytes", "0"]),
        ("more", ["--prompts", "7"]),
        ("all", ["--prompts", "all"]),
    ):
        done = CliRunner().invoke(main, [*words, store, *more])
        assert done.exit_code == 0, done.output
        outputs.append(" ".join(done.output.split()))
    for store in ("default", "more", "all"):
        assert open_store(store).runs.keys() == open_store("six").runs.keys()
        assert stored_objects(tmp_path / store / "runs") == stored_objects(tmp_path / "six/runs")
    assert ["--prompts 7" in output for output in outputs] == [False, False, True, False]
    assert "1 of 6 texts have fewer than 10 tokens" in outputs[0]
    assert "prompts with the tokens of an earlier one: 4 of 6." in outputs[0]
