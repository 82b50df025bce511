"""The plan: its hash moves with every field, its run id is readable, its parts fit."""

from dataclasses import replace
from typing import Any

import pytest
from small_capture import Capture, make_plan

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.documents import canonical_json, document_hash, load_json, validate_document
from lpp.store.format.plan import (
    Plan,
    Series,
    SiteSpec,
    parse_plan,
    plan_differences,
    series_problems,
    validate_plan,
)
from lpp.store.format.run_names import run_names

OTHER_CHOICE = {
    "hub": "gguf",
    "residual": "post_norm",
    "post_norm": "residual",
    "all": "schedule",
    "bfloat16": "float16",
}


def leaves(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        return [leaf for k, v in document.items() for leaf in leaves(v, (*place, k))]
    if isinstance(document, list):
        return [leaf for k, v in enumerate(document) for leaf in leaves(v, (*place, k))]
    return [place]


def changed(value: Any) -> Any:
    if value in OTHER_CHOICE:
        return OTHER_CHOICE[value]
    if value is None:
        return 12
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "~"


def with_leaf(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[place[0]] = with_leaf(document[place[0]], place[1:], value)
    return copy


def test_every_field_moves_the_hash_and_is_named(capture: Capture) -> None:
    plan = capture.plan
    places = leaves(plan.document)
    assert len(places) > 45
    seen = {plan.hash}
    for place in places:
        value = plan.document
        for step in place:
            value = value[step]
        other = replace(plan)
        document = with_leaf(plan.document, place, changed(value))
        other.__dict__["document"] = document
        assert other.hash == document_hash(document)
        assert other.hash not in seen
        seen.add(other.hash)
        assert other.run_id != plan.run_id
        (line,) = plan_differences(other, plan)
        named = [step for step in place if isinstance(step, str)]
        assert line.startswith((".".join(named), named[0])), (place, line)


def test_every_field_of_the_document_is_checked(capture: Capture) -> None:
    plan = capture.plan
    for place in leaves(plan.document):
        document = with_leaf(plan.document, place, [])
        problems = validate_document(Plan, document)
        assert len(problems) == 1, place
        assert str(place[-1]) in problems[0]


def test_plan_round_trip_keeps_unknown_fields_in_the_hash(capture: Capture) -> None:
    document = dict(capture.plan.document) | {"later": {"field": 1}}
    plan = parse_plan(load_json(canonical_json(document), "here"), "here")
    assert plan == capture.plan
    assert plan.document == document
    assert plan.hash == document_hash(document) != capture.plan.hash
    assert plan_differences(plan, capture.plan) == ["later: {'field': 1}, not absent"]


def test_missing_untrained_seed_means_a_trained_model(capture: Capture) -> None:
    document = dict(capture.plan.document)
    document["model"] = {k: v for k, v in document["model"].items() if k != "untrained_seed"}
    plan = parse_plan(document, "here")
    assert plan.model.untrained_seed is None
    assert plan.hash != capture.plan.hash
    assert plan_differences(capture.plan, plan) == ["model.untrained_seed: None, not absent"]


@pytest.mark.parametrize(
    ("model_id", "seed", "slug"),
    [
        ("Lab/Tiny-0.1B", None, "tiny-0-1b"),
        ("Lab/Tiny-0.1B", 0, "tiny-0-1b-untrained"),
        ("/models/Some Model_v2/", None, "some-model-v2"),
        ("SmolLM2.Q4_K.GGUF", None, "smollm2-q4-k"),
        ("///", None, "model"),
        ("模型", 3, "model-untrained"),
        ("a" * 47 + "-" + "b" * 9, None, "a" * 47),
    ],
)
def test_run_id(model_id: str, seed: int | None, slug: str) -> None:
    plan = make_plan()
    plan = replace(plan, model=replace(plan.model, id=model_id, untrained_seed=seed))
    assert plan.run_id == f"{slug}-{plan.hash[:8]}"


def test_equal_plans_have_equal_ids() -> None:
    assert make_plan().hash == make_plan().hash
    order = {"min_tokens": None, "select": "first", "min_bytes": 12, "prompts": 4}
    plan = make_plan()
    again = replace(plan, corpus=replace(plan.corpus, selection=order))
    assert again.hash == plan.hash


def site(name: str, width: int = 4) -> SiteSpec:
    return SiteSpec(name=name, convention="residual", width=width)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"shards": (0, 3, 2, 4)}, "shards should ascend from 0"),
        ({"shards": (0, 2, 2, 4)}, "shards should ascend from 0"),
        ({"shards": (1, 4)}, "shards should ascend from 0"),
        ({"shards": ()}, "shards should ascend from 0"),
        ({"shards": (0, 3)}, "shards should end at prompts.count = 4"),
        ({"prefixes": (3, 6)}, "prefixes should ascend from 1 or more to the context, 7"),
        ({"prefixes": (3, 3, 7)}, "prefixes should ascend from 1 or more to the context, 7"),
        ({"prefixes": ()}, "prefixes should ascend from 1 or more to the context, 7"),
        ({"prefixes": (0, 7)}, "prefixes should ascend from 1 or more to the context, 7"),
        ({"sites": ()}, "sites should be one or more distinct names"),
        ({"sites": (site("final"), site("final"))}, "sites should be one or more distinct names"),
        ({"sites": (site("block.0"),)}, "site name 'block.0' is not embed, block.<k> or final"),
        ({"sites": (site("../up"),)}, "site name '../up' is not embed, block.<k> or final"),
        ({"sites": (site("final\n"),)}, "site name 'final\\n' is not embed, block.<k> or final"),
        ({"sites": (site("final", 0),)}, "site final has width 0"),
    ],
)
def test_parts_that_do_not_fit(capture: Capture, changes: dict[str, Any], problem: str) -> None:
    plan = replace(capture.plan, **changes)
    assert validate_plan(capture.plan) == []
    assert validate_plan(plan) == [problem]
    with pytest.raises(FormatError) as caught:
        parse_plan(plan.document, "runs/x/plan.json")
    assert str(caught.value) == f"runs/x/plan.json: {problem}."
    assert caught.value.kind is ErrorKind.CORRUPT


def test_what_became_of_shared_beginnings_is_part_of_the_plan(capture: Capture) -> None:
    plan = capture.plan
    assert "beginnings" not in plan.document["compute"]  # so plans of earlier releases keep ids
    reused = replace(plan, compute=replace(plan.compute, beginnings="reused"))
    assert validate_plan(reused) == ["compute.beginnings is reused, without branches"]
    reused = replace(reused, prompts=replace(plan.prompts, branches="0" * 64))
    repeated = replace(reused, compute=replace(plan.compute, beginnings="repeated"))
    assert parse_plan(reused.document, "here") == reused
    assert plan_differences(repeated, reused) == ["compute.beginnings: 'repeated', not 'reused'"]
    assert repeated.run_id != reused.run_id
    names = run_names({"a": reused, "b": repeated})
    assert [name.rpartition(", ")[2] for name in names.values()] == [
        "beginnings reused",
        "beginnings repeated",
    ]


def test_all_misfits_together(capture: Capture) -> None:
    plan = replace(capture.plan, shards=(1,), prefixes=(), sites=(site("up", 0),))
    assert len(validate_plan(plan)) == 4


def test_a_checkpoint_names_its_series_and_step(capture: Capture) -> None:
    """A plan without a series keeps its document, and so its hash."""
    alone = capture.plan
    assert "series" not in alone.document["model"]
    plan = replace(alone, model=replace(alone.model, series=Series(name="my run", step=0)))
    assert plan.document["model"]["series"] == {"name": "my run", "step": 0}
    assert (plan.hash != alone.hash, plan.format) == (True, alone.format)
    assert parse_plan(load_json(canonical_json(plan.document), "here"), "here") == plan
    assert plan_differences(plan, alone) == [
        "model.series: {'name': 'my run', 'step': 0}, not absent",
    ]
    later = replace(plan, model=replace(plan.model, series=Series(name="my run", step=1)))
    assert plan_differences(later, plan) == ["model.series.step: 1, not 0"]
    document = with_leaf(dict(plan.document), ("model", "series", "step"), "1")
    with pytest.raises(FormatError, match=r"model\.series should be Series"):
        parse_plan(document, "here")


@pytest.mark.parametrize(
    ("name", "step", "problems"),
    [
        ("a", (1 << 53) - 1, []),
        ("", 0, ["the name ''"]),
        ("a\nb", 0, ["the name 'a\\nb'"]),
        ("\u202e", -1, ["the name '\\u202e'", "step -1 should"]),
        ("\u00e9" * 100, 0, []),
        ("\u00e9" * 101, 1 << 53, ["the name '\u00e9", "step 9007199254740992 should"]),
    ],
)
def test_a_series_needs_a_name_and_a_step(
    capture: Capture, name: str, step: int, problems: list[str]
) -> None:
    series = Series(name=name, step=step)
    found = series_problems(series)
    assert len(found) == len(problems)
    assert all(line.startswith(start) for line, start in zip(found, problems, strict=True))
    plan = replace(capture.plan, model=replace(capture.plan.model, series=series))
    assert validate_plan(plan) == [f"model.series: {why}" for why in found]
