"""Short names of runs: of the model, of what was done to it, distinct among the runs given."""

from dataclasses import replace
from typing import Any

import pytest
from small_capture import Capture

from lpp.store.format.plan import Plan, Series
from lpp.store.format.run_names import find_run, name_problem, plan_name, run_names


def named(plan: Plan, model: str, **changes: Any) -> Plan:
    return replace(plan, model=replace(plan.model, id=model, **changes))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),
        ("smollm2-135m-instruct-q4_1.gguf", "smollm2-135m-instruct Q4_1"),
        ("Llama-3.2-1B.Q4_K_M.GGUF", "Llama-3.2-1B Q4_K_M"),
        ("unsloth/x/gemma-UD-IQ2_XXS.gguf", "gemma UD_IQ2_XXS"),
        ("tiny.gguf, rounded to 4 bits", "tiny, rounded to 4 bits"),
        ("org/", "org"),
    ],
)
def test_a_model_is_called_by_the_end_of_its_id(capture: Capture, model: str, name: str) -> None:
    assert plan_name(named(capture.plan, model)) == name


def test_runs_of_one_model_are_called_by_what_was_done_to_it(capture: Capture) -> None:
    plans = {
        "a": named(capture.plan, "lab/m.Q4_1.gguf"),
        "b": named(capture.plan, "lab/m.Q4_1.gguf", untrained_seed=3),
        "c": named(capture.plan, "lab/m.Q4_1.gguf, rounded to 4 bits"),
    }
    assert run_names(plans) == {
        "a": "m Q4_1",
        "b": "untrained, seed 3",
        "c": "rounded to 4 bits",
    }
    assert run_names({"b": plans["b"]}) == {"b": "m Q4_1, untrained, seed 3"}
    with_another = plans | {"d": named(capture.plan, "other")}
    assert run_names(with_another)["b"] == "m Q4_1, untrained, seed 3"


def test_checkpoints_of_a_training_are_called_by_their_steps(capture: Capture) -> None:
    plans = {
        str(step): named(capture.plan, "m", series=Series(name="run 7", step=step))
        for step in (10, 1000)
    }
    assert [*run_names(plans).values()] == ["step 10", "step 1000"]


def test_what_differs_tells_runs_of_one_name_apart(capture: Capture) -> None:
    plan = named(capture.plan, "m")
    longer = replace(plan, context=plan.context * 2)
    other = replace(plan, corpus=replace(plan.corpus, name="/data/news.jsonl"))
    names = run_names({"plan": plan, "longer": longer, "other": other})
    assert names["other"] == "m, news.jsonl"
    assert names["plan"].endswith(f", context {plan.context}")
    assert names["longer"].endswith(f", context {longer.context}")
    weights = replace(plan, model=replace(plan.model, weights="0" * 64))
    names = run_names({"plan": plan, "weights": weights})
    assert names == {"plan": f"m {plan.hash[:8]}", "weights": f"m {weights.hash[:8]}"}


def test_a_name_that_the_user_chose_stays(capture: Capture) -> None:
    plan, twin = named(capture.plan, "m"), named(capture.plan, "m", untrained_seed=3)
    base = replace(plan, name="base")
    assert base.hash == plan.hash
    assert base.document == plan.document
    assert run_names({"a": base, "b": twin}) == {"a": "base", "b": "untrained, seed 3"}
    other = replace(named(capture.plan, "m", weights="0" * 64), name="m")
    assert run_names({"a": plan, "b": other}) == {"a": f"m {plan.hash[:8]}", "b": "m"}
    assert find_run("m", {"a": plan, "b": other}, "here") == "b"
    both = run_names({"a": base, "b": replace(other, name="base")})  # of two stores
    assert both == {"a": f"base {plan.hash[:8]}", "b": f"base {other.hash[:8]}"}


@pytest.mark.parametrize(
    "name", ["", " a", "a,b", "a/b", "*", "a::b", "what?", "[a]", "all", "a\nb", "é" * 101]
)
def test_names_that_a_pattern_or_a_list_could_mean_are_refused(name: str) -> None:
    assert str(name_problem(name)).startswith("give 1 to 200 bytes")


def test_every_name_is_distinct(capture: Capture) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"untrained_seed": 0},
        {"weights": "1" * 64},
        {"series": Series(name="s", step=1)},
        {"series": Series(name="t", step=1)},
    ]
    plans = {str(k): named(capture.plan, "m", **change) for k, change in enumerate(changes)}
    names = run_names(plans)
    assert [*names] == [*plans]
    assert len({*names.values()}) == len(plans)
    assert run_names({}) == {}
