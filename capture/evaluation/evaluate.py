"""An evaluation from request to scores: lm-eval asks and scores, the engine runs and captures.

Each task is a run of its own, whose id is its plan's: a command that was killed goes on after the
last shard, and one that is repeated runs no pass again and loads no weights. Scores of a task are
kept once it is done.
"""

import difflib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import PurePath, PurePosixPath
from typing import Any, Final

from lpp.capture.engine.run import capture_into
from lpp.capture.evaluation.items import items_table
from lpp.capture.evaluation.model import EvaluatedModel
from lpp.capture.evaluation.quiet import quiet_lm_eval, seeded
from lpp.capture.evaluation.request import DEFAULT_CONTEXT, PROMPT_FIELDS, EvalRequest
from lpp.capture.evaluation.result_files import file_name, result_files
from lpp.capture.evaluation.scores import (
    KIND,
    PROBE_KIND,
    TaskResult,
    keep_result,
    not_finite,
    probe_source,
    scored_name,
    scores_of,
    source_name,
)
from lpp.capture.evaluation.sequences import (
    Answer,
    EncodedRequest,
    answers_of,
    corpus_of,
)
from lpp.capture.evaluation.tasks.declared import DeclaredTask, declared_by
from lpp.capture.evaluation.tasks.load import load_tasks
from lpp.capture.evaluation.tasks.task_code import sandboxed, template_refused
from lpp.capture.models.machine import require
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec, InMemory
from lpp.store import create_store, open_store
from lpp.store.errors import ErrorKind, InputError, LppError
from lpp.store.objects.place import Url, place
from lpp.store.process.debugging import debugging
from lpp.store.progress import BLANK, Display
from lpp.store.scores.items import ITEMS_FILE, evaluation_rule, items_file
from lpp.store.store import open_if_any

BOOTSTRAP: Final = 1000
"""Draws of lm-eval for standard errors that have no formula, such as that of a perplexity. (Its
command takes 100,000 in forks, which may hang in a process that runs a model.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The scores of one command."""

    model: str
    results: Sequence[TaskResult]
    unchanged: Sequence[str]
    """Tasks whose scores the store had already."""


def evaluate_into(root: Url, request: EvalRequest, display: Display = BLANK) -> Evaluated:
    """Evaluate and capture `request`, and keep runs, scores and items in the store at `root`.

    The store is made with the first run. display: shows progress, and what was cut, set aside or
    left out.

    Raises InputError and MachineError as capture does, InputError for a task that cannot be asked,
    ConflictError where the store has other scores of this model on a task.
    """
    require("lm_eval", extra="probes")
    open_if_any(root)  # before anything is loaded: a bad path should not cost minutes
    quiet = not debugging()
    trust = request.trust_task_code
    with quiet_lm_eval(quiet), seeded(), nullcontext() if trust else sandboxed():
        with display.step("prepare", 2, "steps") as bar:
            entries = load_tasks(request.tasks, shots=request.shots, trust_code=trust)
            bar.advance()
            opening = _opening(request, entries)
            model = EvaluatedModel(root, opening, bar=bar, quiet=quiet, display=display)
            bar.advance()
        with closing(model):
            evaluation = _Evaluation(root, request, model, display)
            results: list[TaskResult] = []
            unchanged: list[str] = []
            for entry in entries:
                for result in evaluation.results_of(entry):
                    stored = keep_result(create_store(root), result, replace=request.replace)
                    if result.scores and not stored:
                        unchanged.append(result.task)
                    results.append(result)
    return Evaluated(model=evaluation.name, results=results, unchanged=unchanged)


def _opening(request: EvalRequest, entries: Sequence[Any]) -> CaptureRequest:
    """A capture that opens the model for every task: of the longest context, writing where a task
    lets the model write.
    """
    longest = request.context
    if request.capture.backend == "torch":
        return replace(request.capture, context=longest or 1)
    if longest is None:
        raise InputError(
            f"--backend {request.capture.backend} makes room for prompts before it reads any: say "
            "how long they may be, such as --context 2048."
        )
    tasks = [task for entry in entries for task in entry["tasks"].values()]
    writes = any(task.OUTPUT_TYPE == "generate_until" for task in tasks)
    return replace(
        request.capture,
        context=longest - writes,
        continuation=ContinuationSpec(tokens=1) if writes else None,
    )


class _Evaluation:
    """One model that is asked one entry of tasks after the other."""

    def __init__(
        self, root: Url, request: EvalRequest, model: EvaluatedModel, display: Display
    ) -> None:
        self._root, self._request, self._model, self._display = root, request, model, display
        self.name = scored_name(model.info, request.capture.model.revision)
        self._longest = request.context or model.max_positions or DEFAULT_CONTEXT
        self._whole: set[str] = set()
        _check_model(model, request, self._longest)

    def results_of(self, loaded: Any) -> list[TaskResult]:
        """Evaluate one entry that lm-eval loaded: a task, or a group with its tasks."""
        import lm_eval
        from jinja2.exceptions import SecurityError, TemplateError

        from lpp.capture.evaluation.language_model import CapturingLM

        request = self._request
        _check_group(loaded, request.group)
        tasks = loaded["tasks"]
        self._whole = {name for name, task in tasks.items() if declared_by(task).whole}
        lm = CapturingLM(
            self._model.tokenizer,
            self._longest,
            tasks,
            self._capture,
            request.capture.corpus.fields,
        )
        try:
            results: Any = lm_eval.evaluate(
                lm=lm,
                task_dict=loaded,
                limit=request.limit,
                log_samples=True,
                bootstrap_iters=BOOTSTRAP,
                apply_chat_template=request.chat,
                fewshot_as_multiturn=request.chat,
            )
        except LppError:
            raise
        except SecurityError as error:
            raise template_refused(_names(loaded), error) from None
        except (ValueError, AssertionError, TemplateError) as error:
            if isinstance(error, AssertionError) and not _raised_by_lm_eval(error):
                raise
            raise _not_asked(loaded, error) from error
        task_results = [self._result(results, task, loaded, lm) for task in tasks]
        return task_results + [
            self._result(results, group, loaded, lm) for group in loaded["groups"]
        ]

    def _result(self, results: Any, name: str, loaded: Any, lm: Any) -> TaskResult:
        """The result of one task, or of one group, whose scores belong to several runs."""
        request, task = self._request, loaded["tasks"].get(name)
        parts = [name] if task is not None else [*loaded["tasks"]]
        source, kind, declared = self._source(results, name, loaded, parts)
        runs: set[str] = set()
        items: bytes | None = None
        if task is not None:
            answers = {
                item: by_request for (of, item), by_request in lm.answers.items() if of == name
            }
            samples = results["samples"][name]
            table, others = items_table(
                task,
                samples,
                answers,
                source=source,
                model=self.name,
                group=request.group or declared.group,
                cluster=declared.cluster,
                correct=declared.correct,
            )
            runs, items = set(table["run"].drop_null().to_pylist()), items_file(table)
            for metric in others:
                self._display.say(
                    f"{name}: {metric} is no number of one item: it is among the scores alone"
                )
        files = result_files(
            results,
            kind="hf" if self._model.compute.backend == "torch" else "vllm",
            model=self.name,
            arguments={
                "pretrained": self._model.info.id,
                "dtype": self._model.compute.dtype,
            },
            settings={"limit": request.limit, "max_length": self._longest - 1},
            chat_template=lm.chat_template(True) if request.chat else None,
            as_turns=request.chat,
            samples=[] if task is None else [name],
        )
        for metric in not_finite(results, name):
            self._display.say(f"{name}: {metric} is not finite and is left out")
        tasks = [*loaded["tasks"]]
        if task is not None and any(scores_of(results, g, tasks) for g in loaded["groups"]):
            # the file is with the scores of the group
            files = {file: data for file, data in files.items() if not file.endswith(".json")}
        if items is not None:
            files[(PurePosixPath(next(iter(files))).parent / ITEMS_FILE).as_posix()] = items
        if declared.source is not None:  # each task of the source replaces its own files alone
            files = {f"{file_name(name)}/{file}": data for file, data in files.items()}
        return TaskResult(
            task=name,
            source=source,
            kind=kind,
            model=self.name,
            info=self._model.info,
            run=next(iter(runs)) if len(runs) == 1 else None,
            scores=scores_of(results, name, parts, cluster=declared.cluster),
            files=files,
        )

    def _source(
        self, results: Any, name: str, loaded: Any, parts: Sequence[str]
    ) -> tuple[str, str, DeclaredTask]:
        """(source of the scores of a task or group, its kind, what the task declares)."""
        request, task = self._request, loaded["tasks"].get(name)
        version, shots = results["versions"].get(name), results["n-shot"].get(name)
        declared = DeclaredTask() if task is None else declared_by(task)
        if declared.source is not None:
            source = probe_source(
                declared.source,
                version=version,
                shots=shots,
                chat=request.chat,
                limit=request.limit,
            )
            return source, PROBE_KIND, declared
        source = source_name(
            name,
            version=version,
            shots=shots,
            chat=request.chat,
            limit=request.limit,
            docs=[sample["doc_hash"] for part in parts for sample in results["samples"][part]],
        )
        return source, KIND, declared

    def _capture(
        self, task: str, requests: Sequence[EncodedRequest], *, tokens: int = 0
    ) -> list[Answer]:
        """Capture the requests of a task as one run, and answer them."""
        request = self._request
        if task in self._whole:
            _refuse_cut(task, requests, tokens, self._longest)
        held = {
            name
            for encoded in requests
            for name, value in encoded.fields.items()
            if value is not None
        }
        prompt_fields = [name for name in PROMPT_FIELDS if name in held]
        fields = (*prompt_fields, *request.capture.corpus.fields)
        corpus, rows = corpus_of(task, evaluation_rule(task), requests, fields)
        passages = list(corpus.passages)
        if not passages:
            raise InputError(
                f"task {task}: no request fits into {self._longest} tokens. Choose a larger "
                "--context."
                if requests
                else f"task {task}: all its texts are empty. Change its doc_to_target."
            )
        longest = max(len(encoded.ids) for encoded in requests)
        of_task = request.of_task(task, len(passages), longest, fields, tokens)
        key = self._model.key(task, requests, tokens)
        outcome = self._model.finished(of_task, key)
        if outcome is None:
            given = InMemory(corpus=corpus, backend=self._model.backend(), key=key)
            outcome = capture_into(self._root, of_task, given=given, display=self._display)
        for line in outcome.message(place(self._root)).splitlines():
            if text := line.partition("Next: ")[0].rstrip():
                self._display.say(f"  {text}")
        for line in _cut_lines(task, requests, rows):
            self._display.say(f"  {line}")
        store = open_store(self._root)
        self._model.remember(store, outcome.run)
        return answers_of(store.runs[outcome.run], requests, rows)


def _cut_lines(
    task: str, requests: Sequence[EncodedRequest], rows: Sequence[int | None]
) -> Iterator[str]:
    """A line about what was cut, and one about what was set aside."""
    cut = sum(request.dropped > 0 for request in requests)
    if cut:
        yield f"{task}: {cut} of {len(requests)} requests are longer than the context and were cut"
    aside = sum(row is None for row in rows)
    if aside:
        yield f"{task}: {aside} answers fill the context or more, and count as not chosen"


def _refuse_cut(task: str, requests: Sequence[EncodedRequest], tokens: int, longest: int) -> None:
    """Refuse truncated prompts, for a task that needs whole ones."""
    if all(request.ids and not request.dropped for request in requests):
        return
    needed = max(len(request.ids) + request.dropped for request in requests) + tokens
    raise InputError(
        f"{task}: a prompt takes up to {needed} tokens, there is room for {longest}, and this task "
        "is not cut. Use fewer shots, such as --shots 2, or a larger --context."
    )


def _check_group(loaded: Any, group: str | None) -> None:
    """Refuse a field of groups that no document has."""
    known = {name for task in loaded["tasks"].values() for name in getattr(task, "features", ())}
    if group is not None and known and group not in known:
        near = difflib.get_close_matches(group, sorted(known), n=1)
        names, fields = ", ".join(loaded["tasks"]), ", ".join(sorted(known))
        advice = f"Did you mean --group {near[0]}?" if near else f"Their fields: {fields}."
        raise InputError(
            f"--group {group}: no document of {names} has this field. {advice}",
            kind=ErrorKind.NOT_FOUND,
        )


def _check_model(model: EvaluatedModel, request: EvalRequest, longest: int) -> None:
    tokenizer = model.tokenizer
    if model.max_positions is not None and longest > model.max_positions:
        raise InputError(
            f"--context {longest} is beyond {model.info.id}, which has {model.max_positions} "
            f"positions. Choose --context {model.max_positions} or less."
        )
    if longest < 2:
        raise InputError("--context 1: an answer and what is before it take two tokens at least.")
    if request.chat and not tokenizer.chat_template:
        raise InputError(f"{model.info.id} has no chat template. Repeat without --chat.")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer of {model.info.id} has no token that begins or ends a text, which "
            "lm-eval puts before an empty context. Give a model whose tokenizer has one.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        )


def _raised_by_lm_eval(error: AssertionError) -> bool:
    """Whether lm-eval asserted it, such as that a task has enough shots."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return "lm_eval" in PurePath(last.filename).parts


def _not_asked(loaded: Any, error: Exception) -> InputError:
    return InputError(f"{_names(loaded)}: lm-eval cannot ask it: {error}")


def _names(loaded: Any) -> str:
    return ", ".join(loaded["groups"] or loaded["tasks"])
