"""Which two runs are compared, over which prompts, and what is said where they cannot be."""

import shlex
from pathlib import Path

import click
import pyarrow as pa
import pytest
from made_runs import Made, MakeRun

from lpp.analyze.drift.pair import Pair, pair_of, run_of
from lpp.analyze.runs.capture_command import capture_command
from lpp.store import Run, open_store
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.plan import ContinuationInfo

SIX = (12, 7, 20, 20, 3, 15)


def run_in(made: Made) -> Run:
    return open_store(made.root).runs[made.run_id]


def paired(a: Made, b: Made, prompts: int | None = None) -> Pair:
    return pair_of(run_in(a), run_in(b), prompts)


def refusal(a: Made, b: Made, prompts: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        paired(a, b, prompts)
    return str(caught.value)


def test_two_models_of_the_same_prompts(make_run: MakeRun) -> None:
    a, b = make_run(SIX, model="one"), make_run(SIX, model="two", seed=1)
    pair = paired(a, b)
    assert (pair.a.run.id, pair.b.run.id) == (a.run_id, b.run_id)
    assert (pair.n_prompts, pair.excluded.tolist(), pair.limits) == (6, [], [])
    assert not pair.of_one_run
    assert pair.lengths.tolist() == list(SIX)
    assert pair.n_tokens() == sum(SIX)
    assert pair.n_tokens(5) == sum(max(length - 5, 0) for length in SIX)
    assert paired(a, b, 4).n_prompts == 4


def test_a_run_with_itself(make_run: MakeRun) -> None:
    made = make_run(SIX)
    assert paired(made, made).of_one_run


def test_the_first_prompts_that_both_hold(make_run: MakeRun) -> None:
    a = make_run(SIX, model="six", prompt_set="p6", texts="t")
    b = make_run(SIX * 2, model="twelve", prompt_set="p12", texts="t")
    pair = paired(a, b)
    assert (pair.n_prompts, pair.limits) == (6, [])
    assert "share their first 6 prompts. Ask for 1 to 6." in refusal(a, b, 7)
    assert "--prompts 0" in refusal(a, b, 0)


def test_prompts_count_up_to_the_first_that_differs(make_run: MakeRun) -> None:
    a = make_run(SIX, model="one", texts="t")
    b = make_run(SIX, model="two", texts="t", order=[0, 1, 2, 3, 5, 4])
    pair = paired(a, b)
    assert pair.n_prompts == 4
    (line,) = pair.limits
    assert line.startswith("Prompts are compared up to the first one that differs, prompt 4: ")
    assert paired(a, b, 3).limits == []


def test_short_prompts_of_other_contexts_are_equal(make_run: MakeRun) -> None:
    a, b = make_run((5, 9, 20), model="long"), make_run((5, 9, 20), model="short", context=10)
    pair = paired(a, b)
    assert pair.n_prompts == 2
    (line,) = pair.limits
    assert "the context is 20 in A and 10 in B; prompt 2 has 20 tokens in A and 10 in B" in line


def test_a_missing_shard_ends_the_prompts(make_run: MakeRun) -> None:
    a, b = make_run(SIX, model="one"), make_run(SIX, model="two", shards=[0, 2])
    pair = paired(a, b)
    assert pair.n_prompts == 2
    (line,) = pair.limits
    assert line.startswith("B is not complete: 1 of 3 shards are missing (1)")
    none = make_run(SIX, model="three", shards=[1, 2])
    assert "Repeat the `lpp-capture run` command: it resumes." in refusal(a, none)


def test_prompts_set_aside_by_either_take_no_part(make_run: MakeRun) -> None:
    a = make_run(SIX, model="one", set_aside=[4])
    b = make_run(SIX, model="two", set_aside=[1, 4])
    pair = paired(a, b)
    assert pair.excluded.tolist() == [1, 4]
    assert pair.lengths.tolist() == [12, 0, 20, 20, 0, 15]
    assert pair.limits == ["2 of the 6 prompts set aside by A or B take no part: 1, 4."]
    assert paired(a, b, 4).excluded.tolist() == [1]
    assert "no token is in both" in refusal(a, make_run(SIX, model="x", set_aside=range(6)))


def options_of(command: str) -> dict[str, str]:
    """The options of a capture command; each one exists."""
    from lpp.capture.cli.run import run as capture

    words = shlex.split(command.replace("\\\n", ""))
    assert words[:2] == ["lpp-capture", "run"]
    known = {option for p in capture.params for option in p.opts if isinstance(p, click.Option)}
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options.keys() <= known
    return options


def test_other_prompts_are_told_with_the_command_that_captures_them(make_run: MakeRun) -> None:
    a = make_run(SIX, model="one", corpus="here")
    b = make_run(SIX, model="two", corpus="there", context=10, first_row=500)
    message, _, command = refusal(a, b).partition("\n")
    assert "share no first prompt: the context is 20 in A and 10 in B; the corpus is" in message
    assert "the corpus is here in A and there in B; prompt 0 has other token ids" in message
    options = options_of(command)
    assert options["--store"] == str(a.root)
    assert (options["--model"], options["--corpus"], options["--context"]) == ("two", "here", "20")


def test_the_command_of_a_run_whose_model_wrote_on() -> None:
    written = {"given_context": 60, "tokens": 20, "temperature": "0.7", "seed": 5}
    plan = {"context": 80, "continuation": {**written, "end_ids": []}}
    options = options_of(capture_command(plan))
    assert options == {
        **{"--store": "STORE", "--context": "60", "--continue": "20"},
        **{"--temperature": "0.7", "--generation-seed": "5", "--sites": ""},
    }


def test_what_models_wrote_is_compared_by_capturing_the_texts_alone(make_run: MakeRun) -> None:
    written = ContinuationInfo(
        given_context=8, tokens=12, temperature=None, seed=None, end_ids=(2,)
    )
    carried = {
        "n_given": pa.array([min(8, n - 1) for n in SIX], pa.int32()),
        "written_logprob": pa.array([[-1.0] * max(1, n - 8) for n in SIX], pa.list_(pa.float32())),
    }
    a, b = (
        make_run(SIX, model=name, prompt_set=name, continuation=written, carried=carried)
        for name in ("one", "two")
    )
    message, *commands = refusal(a, b).split("\nlpp-capture")
    assert "a model wrote the end of each prompt (--continue)" in message
    options = [options_of(f"lpp-capture{command}") for command in commands]
    assert [one["--model"] for one in options] == ["one", "two"]
    assert all(one["--context"] == "8" and "--continue" not in one for one in options)


def test_other_tokenizers_have_no_tokens_in_common(make_run: MakeRun) -> None:
    a, b = make_run(SIX, model="one"), make_run(SIX, model="two", tokenizer="t1")
    message = refusal(a, b)
    assert f"lpp-sql {a.root} --run differences" in message
    assert "lpp-capture" not in message


# names


def test_a_run_is_named_by_id_start_pattern_or_store(make_run: MakeRun, tmp_path: Path) -> None:
    a, b = make_run(model="tiny/one"), make_run(model="tiny/other")
    far = make_run(model="tiny/one-more", root=tmp_path / "far")
    for name in (a.run_id, "one", "on*", f"{a.root}::one"):
        assert run_of(a.root, name).run.id == a.run_id
    assert run_of(a.root, "ot").run.id == b.run_id
    found = run_of(a.root, f"{far.root}::one").run
    assert (found.id, found.path.parent.parent) == (far.run_id, far.root)


def test_an_id_is_itself_where_another_begins_with_it(make_run: MakeRun) -> None:
    a = make_run(model="tiny")
    make_run(model=f"{a.run_id}-more")
    assert run_of(a.root, a.run_id).run.id == a.run_id


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("o", r"'o' names 2 runs:\n  one: one-\w+\n  other: other-\w+\n"),
        ("ome", r"'ome' names no run; .*\n  one: one-\w+\n  other: other-\w+\n"),
        ("", r"'' names no run;"),
    ],
)
def test_a_name_that_is_no_run(name: str, told: str, make_run: MakeRun) -> None:
    made = make_run(model="tiny/one")
    make_run(model="tiny/other")
    with pytest.raises(InputError, match=told) as caught:
        run_of(made.root, name)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_of_many_runs_the_nearest_are_suggested(make_run: MakeRun) -> None:
    for k in range(8):
        made = make_run(model=f"tiny/a-long-name-of-a-model-{k}")
    with pytest.raises(InputError, match=r"names no run;.*\n  a-long-name-of-a-model-0: a-long"):
        run_of(made.root, "a-long-nme-of-a-model-0")


def test_a_run_is_named_by_its_short_name(make_run: MakeRun) -> None:
    one = make_run(model="tiny/One.Q4_1.gguf")
    two = make_run(model="tiny/One.Q4_1.gguf, rounded to 4 bits")
    for name in ("One Q4_1", "one q4_1", "*Q4_1"):
        assert run_of(one.root, name).run.id == one.run_id
    for name in ("Rounded to 4 bits", "rounded", "*4 bits", "One Q4_1, rounded to 4 bits"):
        assert run_of(one.root, name).run.id == two.run_id
    with pytest.raises(InputError, match="'One' names 2 runs"):
        run_of(one.root, "One")
