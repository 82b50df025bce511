"""Finding prompts in a flat batch; no vLLM needed."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lpp.capture.backends.vllm.match import Found, find_prompts, prompt_key

PROMPTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8)


def ids(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32)


def flat(prompts: list[list[int]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.concatenate([ids(*p) for p in prompts]), np.concatenate(
        [np.arange(len(p)) for p in prompts]
    )


@given(prompts=PROMPTS)
def test_every_prompt_of_a_flat_batch_is_found_where_it_lies(prompts: list[list[int]]) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    starts = np.cumsum([0, *(len(p) for p in prompts[:-1])]).tolist()
    want = [Found(prompt_key(ids(*p)), s, len(p)) for p, s in zip(prompts, starts, strict=True)]
    assert find_prompts(*flat(prompts), awaited) == want


@given(prompts=PROMPTS, padding=st.lists(st.integers(0, 9), max_size=5))
def test_padding_behind_the_last_prompt_changes_nothing_before_it(
    prompts: list[list[int]], padding: list[int]
) -> None:
    awaited = Counter(prompt_key(ids(*p)) for p in prompts)
    tokens, positions = flat(prompts)
    rng = np.random.default_rng(len(padding))
    found = find_prompts(
        np.append(tokens, rng.integers(0, 4, len(padding)).astype(np.int32)),
        np.append(positions, padding),
        awaited,
    )
    want = find_prompts(tokens, positions, awaited)
    # stale positions may make the last prompt look longer: it is still that prompt, or one whose
    # ids the padding happens to spell
    assert found[: len(want) - 1] == want[:-1]
    assert found[len(want) - 1].start == want[-1].start


def test_a_prompt_that_nobody_awaits_is_passed_over() -> None:
    tokens, positions = flat([[1, 2], [3], [1, 2]])
    found = find_prompts(tokens, positions, {prompt_key(ids(1, 2)): 1})
    assert [(f.start, f.length) for f in found] == [(0, 2)]


def test_the_rest_of_a_chunked_prompt_is_not_taken_for_one() -> None:
    found = find_prompts(ids(7, 8, 9), np.array([4, 5, 6]), {prompt_key(ids(7, 8, 9)): 1})
    assert found == []
