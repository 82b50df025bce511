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
    """The fields added to the prompts of a run."""

    run: Run
    fields: tuple[str, ...]
    """Names of the fields that the run lacked; empty: it had all of them."""
    matched_by: str
    """The key by which prompts were matched to rows: `row`, `id` or `order`."""
    notes: tuple[str, ...]
    """Remarks for the user, a line each."""


def label_runs(runs: Iterable[Run], corpus: Corpus) -> Iterator[Labelled]:
    """Add the requested fields of `corpus` to the prompts of each of `runs`.

    Prompts are matched to rows by `source_row`, by the prompts' `id` or by their order: the first
    key for which the texts have the fingerprint in the run's plan. Reads the corpus once for all
    runs of the same texts.

    Raises InputError(NOT_FOUND) if no key fits, and what `carried` and `add_fields` raise.
    """
    requested = [*map(column_name, corpus.fields.requested)]
    of_texts: dict[str, tuple[str, Carried]] = {}
    for run in runs:
        texts = run.plan.corpus.prompt_set
        if texts not in of_texts:
            by, passages = _same_texts(run, corpus)
            of_texts[texts] = by, carried(corpus, passages, keep_texts=False)
        by, fields = of_texts[texts]
        labelled, new = add_fields(run, fields.table.select(requested))
        names = tuple(name.removeprefix(FIELD_PREFIX) for name in new)
        yield Labelled(run=labelled, fields=names, matched_by=by, notes=fields.notes)


def _same_texts(run: Run, corpus: Corpus) -> tuple[str, Sequence[Passage]]:
    """The key that matches prompts to rows, and the passages of the prompts in order."""
    for by, passages in _passages_by_key(run, corpus):
        if prompt_set_fingerprint(passages) == run.plan.corpus.prompt_set:
            return by, passages
    raise InputError(
        f"{corpus.name}: its texts are not the {run.plan.prompts.count} texts that run {run.id} "
        f"read of {run.plan.corpus.name}, neither by row nor by id nor in their order. Give the "
        "file that was captured, or one with the same texts, a row for each prompt "
        f'(their order: lpp-sql {run.directory.root} "SELECT * FROM prompts").',
        kind=ErrorKind.NOT_FOUND,
    )


def _passages_by_key(run: Run, corpus: Corpus) -> Iterator[tuple[str, Sequence[Passage]]]:
    """(key, passages of the prompts in order) for each key that matches every prompt to a row."""
    held = [ID] if ID in run.extra_columns.names else []
    prompts = run.prompts(*held)
    keys = {
        "row": prompts["source_row"].to_pylist(),
        "id": prompts[ID].to_pylist() if held else [],
        "order": list(range(prompts.num_rows)),
    }
    wanted = {by: {*values} for by, values in keys.items()}
    passages: Mapping[str, dict[object, Passage]] = {by: {} for by in keys}
    for index, passage in enumerate(corpus.passages):
        passage_keys = {
            "row": passage.source_row,
            "id": corpus.fields_of(passage).get(ID),
            "order": index,
        }
        for by, key in passage_keys.items():
            if key in wanted[by]:
                passages[by].setdefault(key, passage)
    for by, values in keys.items():
        if values and all(value in passages[by] for value in values):
            yield by, [passages[by][value] for value in values]
