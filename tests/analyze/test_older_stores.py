"""Token files of an earlier release, which lack a later column, alone and beside newer ones."""

import pytest
from made_runs import MakeRun
from older_stores import without_varentropy
from polars.testing import assert_frame_equal

from lpp.analyze import scan_entropy, scan_tokens
from lpp.store import open_store


@pytest.mark.parametrize("older", [[0], [2], [0, 1, 2]])
def test_absent_column_is_null_and_nothing_else_changes(
    make_run: MakeRun, older: list[int]
) -> None:
    made = make_run()
    tokens, entropy = scan_tokens(made.root).collect(), scan_entropy(made.root).collect()
    assert tokens["varentropy"].null_count() == 0
    shards = open_store(made.root).runs[made.run_id].shards
    for index in older:
        without_varentropy(shards[index].path)
    now = scan_tokens(made.root).collect()
    assert now.schema == tokens.schema
    assert_frame_equal(now.drop("varentropy"), tokens.drop("varentropy"))
    old_prompts = {p for i in older for p in range(shards[i].first_prompt, shards[i].end_prompt)}
    nulls = now.filter(now["varentropy"].is_null())["prompt_id"]
    assert set(nulls) == old_prompts
    assert now["varentropy"].sum() == pytest.approx(
        tokens.filter(~tokens["prompt_id"].is_in(list(old_prompts)))["varentropy"].sum()
    )
    assert_frame_equal(scan_entropy(made.root).collect(), entropy)
