"""Fields for the prompts of runs that are in a store already, from a file with the same texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lpp.capture.corpus.carried import Carried, carried
from lpp.capture.corpus.fields import ID, column_name
from lpp.capture.corpus.passages import Corpus, Passage, prompt_set_fingerprint
from lpp.store import Run
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.runs.add_fields import add_fields


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What was added to the prompts of a run."""

    run: Run
    fields: tuple[str, ...]
    """Names of the fields that the run lacked; empty: it had all of them."""
    by: str
    """What found the row of a prompt: `row`, `id` or `order`."""
    notes: tuple[str, ...]
    """Remarks for the user, a line each."""


def label_runs(runs: Iterable[Run], corpus: Corpus) -> Iterator[Labelled]:
    """Add the requested fields of `corpus` to the prompts of each of `runs`.

    The row of a prompt is found by `source_row`, else by the prompt's `id`, else by the order of
    prompts: by the first of these for which the texts are those that the run read, by their
    fingerprint in the plan. Reads the corpus once for all runs of the same texts.

    Raises InputError(NOT_FOUND) where none of them fits, and what `carried` and `add_fields` raise.
    """
    asked = [*map(column_name, corpus.fields.asked)]
    of_texts: dict[str, tuple[str, Carried]] = {}
    for run in runs:
        texts = run.plan.corpus.prompt_set
        if texts not in of_texts:
            by, passages = _same_texts(run, corpus)
            of_texts[texts] = by, carried(corpus, passages, keep_texts=False)
        by, fields = of_texts[texts]
        labelled, new = add_fields(run, fields.table.select(asked))
        names = tuple(name.removeprefix(FIELD_PREFIX) for name in new)
        yield Labelled(run=labelled, fields=names, by=by, notes=fields.notes)


def _same_texts(run: Run, corpus: Corpus) -> tuple[str, Sequence[Passage]]:
    """What finds the rows of the prompts, and their passages in order."""
    for by, passages in _found(run, corpus):
        if prompt_set_fingerprint(passages) == run.plan.corpus.prompt_set:
            return by, passages
    raise InputError(
        f"{corpus.name}: its texts are not the {run.plan.prompts.count} texts that run {run.id} "
        f"read of {run.plan.corpus.name}, neither by row nor by id nor in their order. Give the "
        "file that was captured, or one with the same texts, a row for each prompt "
        f'(their order: lpp-sql {run.directory.root} "SELECT * FROM prompts").',
        kind=ErrorKind.NOT_FOUND,
    )


def _found(run: Run, corpus: Corpus) -> Iterator[tuple[str, Sequence[Passage]]]:
    """The passages of the prompts, in order, by each key that finds one for every prompt."""
    held = [ID] if ID in run.extra_columns.names else []
    prompts = run.prompts(*held)
    keys = {
        "row": prompts["source_row"].to_pylist(),
        "id": prompts[ID].to_pylist() if held else [],
        "order": list(range(prompts.num_rows)),
    }
    wanted = {by: {*values} for by, values in keys.items()}
    found: Mapping[str, dict[object, Passage]] = {by: {} for by in keys}
    for place, passage in enumerate(corpus.passages):
        own = {
            "row": passage.source_row,
            "id": corpus.fields_of(passage).get(ID),
            "order": place,
        }
        for by, key in own.items():
            if key in wanted[by]:
                found[by].setdefault(key, passage)
    for by, values in keys.items():
        if values and all(value in found[by] for value in values):
            yield by, [found[by][value] for value in values]
