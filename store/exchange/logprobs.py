"""Log-probabilities that an engine returned, without hidden states: one JSON object a line.

`token_ids`, and in `logprobs` ln p of each under the tokens before it, or null. The most likely
tokens, if known, are in `top_logprobs`: for each token null, {id: ln p} or [[id, ln p], ...].
Tokens before these may be in `prompt_token_ids`, with `prompt_logprobs` and `prompt_top_logprobs`.
vLLM's {id: {"logprob": ln p, "rank": 1}} may stand in place of ln p.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from lpp.store.errors import InputError
from lpp.store.exchange.foreign import Files, Foreign, Stored

_SITE: Final = "top_id"
"""The only site, since a run needs one: the most likely next token, or -1 where it is unknown."""


def read(path: Path) -> Foreign:
    """The sequences of a file, all in memory. InputError names a line that is none."""
    if not path.is_file():
        raise InputError(f"{path}: no file is there. Name the file of log-probabilities.")
    digest, samples = hashlib.sha256(), []
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            digest.update(text)
            try:
                samples += [_sample(path, line, json.loads(text))] if text.strip() else []
            except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
                raise InputError(f"{path}, line {line}: {error}. Correct the line.") from None
    return Foreign(
        count=len(samples),
        stored=samples.__getitem__,
        states=((1, "int32"),),
        sites=(_SITE,),
        digest=digest.hexdigest(),
    )


def _sample(path: Path, line: int, record: Any) -> Stored:
    tokens = [*_tokens(record, "prompt_"), *_tokens(record, "")]
    if not tokens:
        raise ValueError("no token_ids")
    ids, *numbers = np.array(tokens, np.float64).T
    of_next = [np.append(values[1:], math.nan) for values in numbers]
    top = np.nan_to_num(of_next[1], nan=-1).astype(np.int32)
    names = ("next_logprob", "top1_id", "max_logprob")
    statistics = dict(zip(names, of_next, strict=True))
    return Stored(path, line, ids.astype(np.int64), None, (top[:, None],), statistics)


def _tokens(record: Any, part: str) -> Iterator[tuple[int, float, float, float]]:
    """Of each token its id and ln p, and the id and ln p of the most likely; NaN where unknown."""
    ids = record.get(f"{part}token_ids") or []
    logprobs, tops = (
        record.get(part + name) or [None] * len(ids) for name in ("logprobs", "top_logprobs")
    )
    if not len(ids) == len(logprobs) == len(tops):
        raise ValueError(
            f"{len(ids)} {part}token_ids, {len(logprobs)} {part}logprobs and {len(tops)} "
            f"{part}top_logprobs"
        )
    for token, logprob, top in zip(ids, logprobs, tops, strict=True):
        if type(token) is not int:
            raise ValueError(f"{part}token_ids has {token!r}, which is no whole number")
        own = logprob
        listed = {int(key): value for key, value in dict(top or {}).items()}
        if isinstance(logprob, Mapping):
            # vLLM adds the token itself, which need not be among the most likely
            listed = {int(k): e["logprob"] for k, e in logprob.items() if e["rank"] == 1}
            own = logprob[str(token)]["logprob"]
        best = min(listed, key=lambda key: (-listed[key], key), default=None)
        of_best = (math.nan,) * 2 if best is None else (best, _checked(listed[best]))
        yield token, math.nan if own is None else _checked(own), *of_best


def _checked(logprob: Any) -> float:
    if type(logprob) not in (int, float) or not -math.inf < logprob <= 0:
        raise ValueError(f"{logprob!r} should be ln p, finite and at most 0, or null")
    return float(logprob)


FILES: Final = Files(read=read)
