"""Names that a shell offers at the TAB key."""

import click
from click.shell_completion import CompletionItem, ShellComplete
from made_runs import MakeRun

from lpp.analyze.cli.command import main as lpp_analyze
from lpp.sql.cli import main as lpp_sql


def items(program: click.Command, line: list[str], typed: str) -> list[CompletionItem]:
    return ShellComplete(program, {}, "lpp", "_LPP_COMPLETE").get_completions(line, typed)


def offered(program: click.Command, line: list[str], typed: str) -> list[str]:
    return [item.value for item in items(program, line, typed)]


def test_names_of_the_store_are_offered(make_run: MakeRun) -> None:
    run = make_run(sites=("embed", "block.1", "final"), model="tiny/one")
    other = make_run(sites=("block.2", "final"), model="tiny/two")
    store = str(run.root)
    both = sorted([run.run_id, other.run_id])
    assert sorted(offered(lpp_analyze, ["profile", store], "")) == both
    (only,) = items(lpp_analyze, ["profile", store], "on")
    assert (only.value, only.help) == (run.run_id, "one")
    assert offered(lpp_analyze, ["diff", store], "TW") == [other.run_id]  # by its name, `two`
    assert offered(lpp_analyze, ["diff", store], "x") == []
    assert sorted(offered(lpp_analyze, ["diff", store], "")) == both
    sites = offered(lpp_analyze, ["layers", store, "--sites"], "final,b")
    assert sorted(sites) == ["final,block.1", "final,block.2"]
    assert offered(lpp_analyze, ["layers", store, run.run_id], "TW") == [other.run_id]
    assert offered(lpp_analyze, ["items", store, "--task", "t"], "TW") == [other.run_id]
    assert offered(lpp_analyze, ["profile", store, "--metrics"], "rankm") == ["rankme"]
    assert offered(lpp_sql, [store, "--run"], "diff") == ["differences"]
    assert offered(lpp_analyze, ["profile", store + "-none"], "") == []
