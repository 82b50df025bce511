"""The files that ship: tasks that fit their items and the code."""

import importlib
import re
from itertools import product
from typing import Any

import jinja2
import pytest
import yaml

from lpp.capture.evaluation.tasks.declared import KEY, DeclaredTask
from lpp.capture.synthetic.items import TASKS, pattern_dataset, read_items
from lpp.capture.synthetic.scoring import LINES, ProbeVerdict, parse_line


class Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Leaves `!function` a name."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def task(name: str) -> dict[str, Any]:
    """A task's settings, those it includes among them."""
    settings = yaml.load((TASKS / f"{name}.yaml").read_text("utf-8"), Loader)
    included = settings.pop("include", None)
    return {**(task(included.removesuffix(".yaml")) if included else {}), **settings}


TASK_NAMES = ("lpp_ar_options", "lpp_ar_generate", "lpp_spc")


def test_every_file_is_accounted_for() -> None:
    tasks = {f"{name}.yaml" for name in (*TASK_NAMES, "lpp_ar", "_lpp_ar_items", "pydoc_cloze")}
    splits = ("ar_shots", "ar_test", "spc_shots", "spc_test", "cloze_test")
    assert {path.name for path in TASKS.iterdir()} == {*tasks, *(f"{s}.jsonl" for s in splits)}


def test_data_sets_take_what_else_lm_eval_passes() -> None:
    shipped = pattern_dataset(version=1, pretrained="x", seed=9)
    assert {name: split.to_list() for name, split in shipped.items()} == read_items("spc")


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


def test_options_are_the_four_lines_in_order() -> None:
    assert tuple(task("lpp_ar_options")["doc_to_choice"]) == LINES


@pytest.mark.parametrize(("ambiguous", "answer"), list(product((True, False), "AB")))
def test_shots_show_the_line_format(ambiguous: bool, answer: str) -> None:
    template = jinja2.Template(task("lpp_ar_generate")["doc_to_target"])
    line = template.render(ambiguous=ambiguous, answer=answer)
    assert line in LINES
    assert parse_line(line) == ProbeVerdict(ambiguous, answer)


def test_the_prompt_of_an_ambiguous_item() -> None:
    template = jinja2.Template(task("lpp_ar_options")["doc_to_text"])
    assert template.render(
        prefix="They waved.", option_a="with flags", option_b="goodbye", hint="A train left."
    ) == (
        "Prefix: They waved.\nOptions: (A) with flags | (B) goodbye\nHint: A train left.\nResponse:"
    )


def test_the_prompt_of_a_pattern() -> None:
    settings = task("lpp_spc")
    shown = jinja2.Template(settings["doc_to_text"]).render(shown="([{")
    assert shown == "Sequence: ([{\nAnswer:"
    asked = re.search(r"next (\d+) symbols", settings["description"])
    assert asked is not None
    assert int(asked[1]) == len(read_items("spc")["test"][0]["target"])


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
