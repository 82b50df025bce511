"""The tokens of a tokenizer: their bytes are those of the texts, whatever alphabet it writes in."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import transformers
from stored import stored_objects
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from lpp.capture.corpus.pydoc import pydoc_passages
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.engine.run_cache import skip_finished
from lpp.capture.engine.vocabulary import keep_vocabulary
from lpp.capture.models.load import load_tokenizer
from lpp.capture.models.spec import ModelSpec
from lpp.capture.models.vocabulary import vocabulary
from lpp.capture.plan.parts import WHOLE
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import create_store, open_store
from lpp.store.format.plan import TokenizerInfo
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import read_vocabulary

TEXTS = (
    "The quick brown fox\njumps over  the lazy dog.\r\n\tIt's 3 or 4: naïve café, 日本語, 🙂!",
    "Capture once, ask anything later: every layer, every prefix, every context. \x00\x1b[31m",
)


def wrapped(tokenizer: Tokenizer, **special: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level() -> Any:
    """Llama 3's and Qwen's alphabet, small: most characters beyond ASCII are several tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens([AddedToken("<tool>é</tool>", normalized=False)])
    return wrapped(made, eos_token="<|end|>")


def sentencepiece() -> Any:
    """Llama 2's: `▁` for a space, one put before the text, bytes for unknown characters."""
    letters = sorted({c for c in TEXTS[1] if c.isprintable() and c != " "})
    tokens = [
        "<unk>",
        "<s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *letters,
        "▁a",
        "er",
    ]
    merges = [("▁", "a"), ("e", "r")]
    vocab = {token: place for place, token in enumerate(tokens)}
    made = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(made, unk_token="<unk>", bos_token="<s>")


def unigram() -> Any:
    """T5's: pieces with a Metaspace decoder."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return wrapped(made, unk_token="<unk>")


def word_piece() -> Any:
    tokens = ["[UNK]", "[CLS]", "un", "##believ", "##able", "dog", "##s", "do", "not", "'", "."]
    vocab = {token: place for place, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return wrapped(made, unk_token="[UNK]", cls_token="[CLS]")


def other(decoder: Any = None) -> Any:
    """Words with gaps among their ids, and a decoder that no alphabet here is of."""
    made = Tokenizer(models.WordLevel({"ab</w>": 4, "<unk>": 9, "c": 700}, unk_token="<unk>"))
    made.decoder = decoder or decoders.BPEDecoder()
    return wrapped(made, unk_token="<unk>")


def by_id(tokenizer: Any) -> dict[int, dict[str, Any]]:
    table = vocabulary(tokenizer)
    assert table.schema.equals(VOCABULARY_SCHEMA)
    table.validate(full=True)
    ids = table["id"].to_pylist()
    assert ids == sorted({*tokenizer.get_vocab().values()})
    return {row["id"]: row for row in table.to_pylist()}


def joined(rows: dict[int, dict[str, Any]], ids: Sequence[int]) -> bytes:
    return b"".join(rows[token]["bytes"] for token in ids)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_tokens_join_to_the_bytes_of_a_text(text: str) -> None:
    tokenizer = byte_level()
    rows = by_id(tokenizer)
    assert joined(rows, tokenizer(text)["input_ids"]) == text.encode()


def test_half_a_character_has_its_bytes_and_a_replacement_in_its_text() -> None:
    tokenizer = byte_level()
    rows = by_id(tokenizer)
    first, *_ = (rows[token] for token in tokenizer("🙂")["input_ids"])
    assert (first["bytes"][:1], first["text"][:1]) == (b"\xf0", "\ufffd")
    (space,) = (rows[token] for token in tokenizer(" ")["input_ids"])
    assert (space["bytes"], space["text"]) == (b" ", " ")


def test_a_special_token_stands_for_no_bytes_and_an_added_one_for_its_content() -> None:
    tokenizer = byte_level()
    rows = by_id(tokenizer)
    assert rows[tokenizer.eos_token_id]["bytes"] is None
    assert rows[tokenizer.eos_token_id]["text"] == "<|end|>"
    added = rows[tokenizer.convert_tokens_to_ids("<tool>é</tool>")]
    assert (added["bytes"], added["text"]) == ("<tool>é</tool>".encode(), "<tool>é</tool>")


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_tokens_join_to_the_bytes_after_a_space(text: str) -> None:
    tokenizer = sentencepiece()
    rows = by_id(tokenizer)
    assert joined(rows, tokenizer(text)["input_ids"]) == b" " + text.encode()
    assert rows[tokenizer.convert_tokens_to_ids("<0x0A>")]["text"] == "\n"
    assert rows[tokenizer.convert_tokens_to_ids("<0xF0>")]["text"] == "\ufffd"
    assert rows[tokenizer.convert_tokens_to_ids("▁a")] == {
        "id": tokenizer.convert_tokens_to_ids("▁a"), "bytes": b" a", "text": " a",
    }  # fmt: skip
    assert rows[tokenizer.unk_token_id]["bytes"] is None


def test_unigram_tokens_join_to_the_bytes_after_a_space() -> None:
    tokenizer = unigram()
    rows = by_id(tokenizer)
    text = "every layer, every prefix"
    assert joined(rows, tokenizer(text)["input_ids"]) == b" " + text.encode()


def test_word_piece_tokens_are_read_without_their_prefix_and_shown_with_it() -> None:
    tokenizer = word_piece()
    rows = by_id(tokenizer)
    ids = tokenizer("Unbelievable dogs")["input_ids"]
    assert [rows[token]["text"] for token in ids] == ["un", "##believ", "##able", "dog", "##s"]
    assert joined(rows, ids) == b"unbelievabledogs"
    assert rows[tokenizer.cls_token_id] == {"id": 1, "bytes": None, "text": "[CLS]"}


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.Sequence([decoders.Replace("b", "x"), decoders.Fuse()]),
        decoders.Sequence([decoders.Metaspace(), decoders.Strip("c", 1, 0)]),  # not what is decoded
    ],
)
def test_tokens_of_an_unknown_alphabet_have_a_text_alone(decoder: Any) -> None:
    tokenizer = other(decoder)
    rows = by_id(tokenizer)
    assert [row["bytes"] for row in rows.values()] == [None] * 3
    assert rows[9]["text"] == "<unk>"
    assert rows[4]["text"] == tokenizer.backend_tokenizer.decode([4])


def test_every_token_of_a_real_tokenizer(packaged: Path) -> None:
    tokenizer = load_tokenizer(str(packaged))
    rows = by_id(tokenizer)
    assert len(rows) == 49152
    assert [i for i, row in rows.items() if row["bytes"] is None] == list(range(17))
    for passage in pydoc_passages():
        assert joined(rows, tokenizer(passage.text)["input_ids"]) == passage.text.encode()


class InPython(transformers.PreTrainedTokenizer):
    """A tokenizer without a fast backend: a word, half a surrogate pair, a gap."""

    tokens: ClassVar = {0: "<unk>", 5: "word", 7: "\ud83d"}

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def get_vocab(self) -> dict[str, int]:
        return {token: place for place, token in self.tokens.items()}

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self.tokens[index]

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return text.split()


def test_a_tokenizer_in_python_gives_texts_alone() -> None:
    rows = by_id(InPython(unk_token="<unk>"))  # type: ignore[no-untyped-call]
    assert [(row["bytes"], row["text"]) for row in rows.values()] == [
        (None, "<unk>"), (None, "word"), (None, "?"),
    ]  # fmt: skip


# What a store gets


@pytest.fixture
def request_(tiny_folder: Callable[[str], Path], tmp_path: Path) -> CaptureRequest:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("the dog and the fox\n\nevery layer")
    return CaptureRequest(
        model=ModelSpec(id=str(tiny_folder("gpt2"))),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=2, min_bytes=0),
        context=20,
    )


def captured(root: Path) -> pa.Table | None:
    (run,) = open_store(root).runs.values()
    return run.vocabulary()


def test_capture_writes_it_with_a_run(
    request_: CaptureRequest, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    capture_into(str(root), request_)
    found = captured(root)
    assert found is not None
    assert found.equals(vocabulary(tiny_tokenizer))
    assert found.num_rows == len(tiny_tokenizer)
    before = stored_objects(root)
    capture_into(str(root), request_)
    assert stored_objects(root) == before


def test_a_repeated_command_adds_it_to_an_older_run(
    request_: CaptureRequest, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    capture_into(str(root), request_)
    shutil.rmtree(root / "vocabularies")
    outcome = skip_finished(str(root), request_, WHOLE)
    assert outcome is not None
    found = captured(root)
    assert found is not None
    assert found.equals(vocabulary(tiny_tokenizer))


def test_a_tokenizer_that_cannot_be_listed_costs_a_line(tmp_path: Path) -> None:
    store = create_store(tmp_path / "store")
    info = TokenizerInfo(id="odd", fingerprint="f", size=3)
    line = keep_vocabulary(store.path, info, object())
    assert line.startswith("tokens of odd stay numbers: the tokenizer cannot list them (Attr")
    assert read_vocabulary(store.path, "f") is None
