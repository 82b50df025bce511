"""The files that ship: items as the generators make them, tasks that fit the code."""

import importlib
from itertools import product
from typing import Any

import jinja2
import pytest
import yaml

from lpp.capture.evaluation.tasks.declared import KEY, DeclaredTask
from lpp.capture.synthetic.items import (
    ITEM_SEED,
    TASKS,
    ambiguous_dataset,
    item_files,
    pattern_dataset,
    probe_items,
    read_items,
)
from lpp.capture.synthetic.scoring import ProbeVerdict, line_of


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Leaves `!function` a name."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def task(name: str) -> dict[str, Any]:
    """A task's settings, those it includes among them."""
    settings = yaml.load((TASKS / f"{name}.yaml").read_text("utf-8"), Loader)
    included = settings.pop("include", None)
    return {**(task(included.removesuffix(".yaml")) if included else {}), **settings}


TASK_NAMES = ("lpp_ar_options", "lpp_ar_generate", "lpp_spc")


@pytest.mark.parametrize("name", sorted(item_files()))
def test_files_are_what_the_generators_make(name: str) -> None:
    assert (TASKS / name).read_text("utf-8") == item_files()[name]


def test_every_file_is_accounted_for() -> None:
    tasks = {f"{name}.yaml" for name in (*TASK_NAMES, "lpp_ar", "_lpp_ar_items")}
    assert {path.name for path in TASKS.iterdir()} == {*item_files(), *tasks, "ar_scenes.toml"}


@pytest.mark.parametrize("probe", ["ar", "spc"])
def test_items_are_read_as_they_were_made(probe: Any) -> None:
    assert read_items(probe) == probe_items(probe, ITEM_SEED)


def test_data_sets_take_a_seed_and_what_else_lm_eval_passes() -> None:
    shipped = pattern_dataset(version=1, pretrained="x", seed=9)
    assert shipped["test"].to_list() == read_items("spc")["test"]
    other = pattern_dataset(item_seed=9)
    assert other["test"].to_list() == probe_items("spc", 9)["test"] != read_items("spc")["test"]
    dealt = ambiguous_dataset(item_seed=9)
    assert (len(dealt["shots"]), len(dealt["test"])) == (10, 160)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_functions_of_a_task_are_there(name: str) -> None:
    settings = task(name)
    for key in ("custom_dataset", "process_results"):
        module, _, function = settings[key].rpartition(".")
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", TASK_NAMES)
def test_task_fits_the_code(name: str) -> None:
    settings = task(name)
    assert settings["task"] == name
    assert settings["num_fewshot"] == 10 == len(read_items("spc")["shots"])
    assert settings["metadata"]["version"] == 1  # of the items; part of the source's name
    declared = DeclaredTask(**settings["metadata"][KEY])
    assert (declared.source, declared.whole) == ("lpp-probes", True)
    (item, *_) = read_items("spc" if name == "lpp_spc" else "ar")["test"]
    assert {declared.group, declared.cluster} - {None} <= item.keys()
    assert (declared.cluster is None) == (name == "lpp_spc")
    assert any(name.startswith(group) for group in ("lpp_ar", "lpp_spc"))
    if "generation_kwargs" in settings:
        assert settings["generation_kwargs"]["until"] == ["\n"]
        assert settings["generation_kwargs"]["max_gen_toks"] == {"lpp_spc": 8}.get(name, 32)
        assert settings["generation_kwargs"]["do_sample"] is False


@pytest.mark.parametrize(("ambiguous", "answer"), list(product((True, False), "AB")))
def test_shots_show_the_line_format(ambiguous: bool, answer: str) -> None:
    template = jinja2.Template(task("lpp_ar_generate")["doc_to_target"])
    line = template.render(ambiguous=ambiguous, answer=answer)
    assert line == line_of(ProbeVerdict(ambiguous, answer))


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_score_is_declared(name: str) -> None:
    settings = task(name)
    module, _, function = settings["process_results"].rpartition(".")
    score = getattr(importlib.import_module(module), function)
    results: Any = [(0.0, True)] * 4 if name == "lpp_ar_options" else [""]
    found = {
        m
        for item in read_items("spc" if name == "lpp_spc" else "ar")["test"][:8]
        for m in score(item, results)
    }
    assert found == {metric["metric"] for metric in settings["metric_list"]}
