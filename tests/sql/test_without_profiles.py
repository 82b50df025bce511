"""What a store answers before anything was profiled: what was captured, and evaluated."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sql_output import ok, refused
from two_items import add_items
from written_run import write_run

from lpp.sql import connect
from lpp.store.errors import ErrorKind, InputError

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def csv(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return ok(done).splitlines()[1:]


def test_what_was_captured_and_evaluated(empty_store: Path, lpp_sql: Run) -> None:
    one, two = write_run(empty_store), write_run(empty_store, "Lab/b", quarantined=(1,))
    add_items(empty_store)

    def answer(sql: str) -> list[str]:
        return csv(lpp_sql(empty_store, sql, "--format", "csv"))

    runs = "SELECT run, n_prompts, n_tokens, n_quarantined, plan->>'context' FROM runs ORDER BY 1"
    assert answer(runs) == [f"{one.id},3,9,0,4", f"{two.id},3,7,1,4"]
    assert answer("SELECT run, sum(n_tokens) FROM prompts GROUP BY run ORDER BY 1") == [
        f"{one.id},9",
        f"{two.id},9",
    ]
    # `entropy` is also the name of a table
    assert answer("SELECT count(*), count(entropy) FROM token_stats")[0].startswith("16,")
    assert answer("SELECT item FROM items ORDER BY item") == ["0", "1"]
    joined = "SELECT count(*) FROM token_stats JOIN runs USING (run) JOIN prompts USING (run)"
    assert answer(joined) == ["48"]


@pytest.mark.parametrize("sql", ["FROM profiles", "SELECT * FROM spectra JOIN runs USING (run)"])
def test_numbers_need_a_profile(empty_store: Path, lpp_sql: Run, sql: str) -> None:
    write_run(empty_store)
    assert "no profiles yet" in (text := refused(lpp_sql(empty_store, sql)))
    assert "lpp-analyze profile" in text
    assert "--schema" not in text


def test_nothing_can_be_changed(empty_store: Path, lpp_sql: Run) -> None:
    write_run(empty_store)
    assert "no profiles yet" in refused(lpp_sql(empty_store, "DELETE FROM runs", "--write"))
    with pytest.raises(InputError) as caught:
        connect(empty_store, token_stats=False)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert not (empty_store / "profiles.duckdb").exists()
