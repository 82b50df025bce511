"""Clusters of prompts and of items: numbers from the values of a field."""

import pytest
from made_runs import MakeRun

from lpp.analyze.numerics.statistics.clusters import cluster_codes, recoded
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.store import open_store
from lpp.store.errors import ErrorKind, InputError


def test_equal_values_are_one_cluster_and_no_value_is_a_cluster_of_its_own() -> None:
    assert cluster_codes(["b", "a", "b", None, None]).tolist() == [0, 1, 0, 2, 3]
    assert cluster_codes([3, 1, 1, 3]).tolist() == [0, 1, 1, 0]
    assert cluster_codes([0, None, 0]).tolist() == [0, 1, 0]
    assert cluster_codes([]).tolist() == []


def test_some_of_the_items_are_numbered_again() -> None:
    codes = cluster_codes(list("abcabc"))
    assert recoded(codes[2:]).tolist() == [0, 1, 2, 0]


def test_prompts_are_in_clusters_by_a_field_that_they_carry(make_run: MakeRun) -> None:
    documents = ["one", "two", "one", None, "two", "one"]
    made = make_run(carried={"id": [9, 8, 9, 8, 7, 7], "field.document": documents})
    run = open_store(made.root).runs[made.run_id]
    assert prompt_values(run, "document") == documents
    assert cluster_codes(prompt_values(run, "id")).tolist() == [0, 1, 0, 1, 2, 2]
    with pytest.raises(InputError, match=r"--cluster documnt: .*document") as caught:
        prompt_values(run, "documnt")
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_prompts_without_fields_are_in_no_clusters(make_run: MakeRun) -> None:
    made = make_run()
    run = open_store(made.root).runs[made.run_id]
    with pytest.raises(
        InputError,
        match=r"there is none\. Add it: lpp-capture label STORE \S+ --from FILE --fields document",
    ):
        prompt_values(run, "document")
