"""Token ids in words."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


class Words:
    """Tokens in words, from a vocabulary of a store; ids without one."""

    def __init__(self, vocabulary: pa.Table | None) -> None:
        self._table = vocabulary
        self._ids = None if vocabulary is None else vocabulary["id"].to_numpy()

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens in a row; a character of several tokens is put together."""
        parts, waiting = [], b""
        for token in ids:
            spelled, text = self._token(token)
            if spelled is not None:
                waiting += spelled
                continue
            parts += [waiting.decode("utf-8", "replace"), text]
            waiting = b""
        return "".join([*parts, waiting.decode("utf-8", "replace")])

    def _token(self, token: int) -> tuple[bytes | None, str]:
        """Bytes of a token, and its text where they are not known."""
        if self._table is None or self._ids is None:
            return None, f"<{token}>"
        row = int(np.searchsorted(self._ids, token))
        if row == len(self._ids) or self._ids[row] != token:
            return None, f"<{token}>"  # the logits may be wider than the tokenizer
        return self._table["bytes"][row].as_py(), self._table["text"][row].as_py()
