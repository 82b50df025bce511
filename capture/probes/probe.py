"""The probes from request to scores in a store; lm-eval asks and scores them (tasks in `tasks/`).

What is added here: each score gets its own number of items, and a standard error that knows which
items share a scene; prompts that the model cannot hold are refused rather than cut.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from lpp.capture.evaluation.quiet import quiet_lm_eval
from lpp.capture.evaluation.result_files import result_files
from lpp.capture.models.machine import out_of_memory
from lpp.capture.probes.items import GROUPS, TASKS, Probe
from lpp.capture.probes.model import ProbedModel, ProbeRequest, load_probed_model
from lpp.capture.probes.scoring import ProbeResult, ProbeScore, standard_error
from lpp.capture.probes.store import keep, matching_run, refuse_second, source_name
from lpp.store import create_store
from lpp.store.commands.console import debugging
from lpp.store.commands.progress import SILENT, Progress, progress
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.objects.place import Url
from lpp.store.store import open_if_any

LONGEST_ANSWER: Final = 32
"""Tokens of an answer at most: `max_gen_toks` of the tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """The scores of one command, and where they are."""

    model: str
    source: str
    results: Sequence[ProbeResult]
    run: str | None
    """The run of the store that captured the same model."""
    why_no_run: str
    has_runs: bool
    """Whether the store has runs of any model."""


def probe_into(
    root: Url,
    request: ProbeRequest,
    *,
    source: str | None = None,
    run: str | None = None,
    replace: bool = False,
) -> Probed:
    """Run the probes of `request` and keep the scores in the store at `root`.

    source: another name for the scores than `source_name`. run: the run of this model, where
    several captured it. replace: replace this model's old scores. The store is made once there
    are scores.

    Raises InputError and MachineError for the model, ConflictError where it has scores already.
    """
    store = open_if_any(root)  # before the model loads: a bad path should not cost minutes
    source, quiet = source or source_name(request), not debugging()
    with progress("prepare", 1, "model") as bar:
        model = load_probed_model(request, progress=bar, quiet=quiet)
        bar.advance()
    if store is not None and not replace:
        refuse_second(store.path, source, model.id, request)
    runs = {} if store is None else store.runs
    found, why = matching_run(runs, model, run)
    results = []
    with progress("probe", count_requests(request, quiet=quiet), "requests") as bar:
        for probe in request.probes:
            results.append(run_probe(probe, request, model, progress=bar, quiet=quiet))
            bar.note(probe)
    keep(create_store(root), source, results, model, found)
    return Probed(
        model=model.id,
        source=source,
        results=results,
        run=found,
        why_no_run=why,
        has_runs=bool(runs),
    )


def run_probe(
    probe: Probe,
    request: ProbeRequest,
    model: ProbedModel,
    *,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> ProbeResult:
    """Ask every item of one probe. progress: advanced by one for each request to the model."""
    import lm_eval

    watched = _in_chunks(model.lm, request, progress)
    with quiet_lm_eval(quiet), _enough_memory(request, model), watched:
        tasks = _tasks(probe, request)
        _refuse_long_prompts(tasks["tasks"].values(), request, model)
        results: Any = lm_eval.evaluate(
            lm=model.lm,
            task_dict=tasks,
            limit=request.limit,
            log_samples=True,
            apply_chat_template=request.chat,
            fewshot_as_multiturn=request.chat,
        )
    scores = tuple(_scores(results))
    file, document = _result_file(results, request, model)
    return ProbeResult(probe=probe, scores=scores, file=f"{probe}/{file}", document=document)


def count_requests(request: ProbeRequest, *, quiet: bool = True) -> int:
    """Requests to the model that the probes make: what `run_probe` advances by, summed."""
    with quiet_lm_eval(quiet):
        tasks = [t for probe in request.probes for t in _tasks(probe, request)["tasks"].values()]
    return sum(
        min(len(task.eval_docs), request.limit or len(task.eval_docs))
        * (len(task.config.doc_to_choice) if task.OUTPUT_TYPE == "multiple_choice" else 1)
        for task in tasks
    )


def _tasks(probe: Probe, request: ProbeRequest) -> Any:
    """lm-eval's task objects, by name, with the settings of the request."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(TASKS),
        include_defaults=False,  # thousands of files
        metadata={"item_seed": request.item_seed},
    )
    loaded: Any = manager.load([GROUPS[probe]])
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=request.shots)
        task.set_fewshot_seed(seed=0)  # for a sampler that takes the first ones anyway
    return loaded


def _refuse_long_prompts(tasks: Any, request: ProbeRequest, model: ProbedModel) -> None:
    """Raise InputError for prompts that do not fit: lm-eval would cut off their beginning."""
    for task in tasks:
        contexts = (
            task.fewshot_context(
                doc,
                num_fewshot=request.shots,
                apply_chat_template=request.chat,
                fewshot_as_multiturn=request.chat,
                chat_template=model.lm.apply_chat_template if request.chat else None,
            )
            for doc in list(task.eval_docs)[: request.limit]
        )
        needed = len(model.lm.tok_encode(max(contexts, key=len))) + LONGEST_ANSWER
        if needed > model.lm.max_length:
            raise InputError(
                f"{task.config.task} with {request.shots} shots takes up to {needed} tokens, and "
                f"{model.id} has {model.lm.max_length} positions. Use fewer: --shots 2.",
                kind=ErrorKind.INVALID_VALUE,
            )


def _scores(results: Any) -> Iterator[ProbeScore]:
    """Every score, from lm-eval's records of items, in the order of the tasks' metrics."""
    for task, records in sorted(results["samples"].items()):
        for metric in results["higher_is_better"][task]:
            counted = [record for record in records if metric in record["metrics"]]
            if not counted:
                continue  # with --limit, no item may count for this metric
            values = [float(record[metric]) for record in counted]
            clusters = [record["doc"].get("scene", record["doc_id"]) for record in counted]
            yield ProbeScore(
                task=task,
                metric=f"{metric},{counted[0]['filter']}",
                value=sum(values) / len(values),
                stderr=standard_error(values, clusters),
                n=len(values),
                clusters=len(set(clusters)),
            )


def _result_file(results: Any, request: ProbeRequest, model: ProbedModel) -> tuple[str, bytes]:
    """(name below a folder of the model's, content) of the file that lm-eval writes."""
    files = result_files(
        results,
        kind="hf" if request.backend == "torch" else "vllm",
        model=model.id,
        arguments=model.arguments,
        settings={"limit": request.limit, "item_seed": request.item_seed},
        chat_template=model.lm.chat_template(True) if request.chat else None,
        as_turns=request.chat,
    )
    ((name, document),) = files.items()
    return name, document


@contextmanager
def _enough_memory(request: ProbeRequest, model: ProbedModel) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise MachineError(
            f"out of memory while {model.id} was asked {request.batch_size} prompts at once. "
            "Repeat with a smaller --batch-size, or with fewer --shots.",
            kind=ErrorKind.NO_MEMORY,
        ) from error


@contextmanager
def _in_chunks(lm: Any, request: ProbeRequest, progress: Progress) -> Iterator[None]:
    """Pass requests to the model in groups and report each group; turns lm-eval's bars off.

    A group is sixteen batches, enough to sort by length. vLLM gets everything at once and sorts.
    """
    size = 16 * request.batch_size if request.backend == "torch" else 1 << 30

    def chunked(method: Callable[..., list[Any]]) -> Callable[[Sequence[Any]], list[Any]]:
        def run(requests: Sequence[Any]) -> list[Any]:
            responses: list[Any] = []
            for start in range(0, len(requests), size):
                chunk = requests[start : start + size]
                responses += method(chunk, disable_tqdm=True)
                progress.advance(len(chunk))
            return responses

        return run

    names = ("loglikelihood", "generate_until")
    for name in names:
        setattr(lm, name, chunked(getattr(lm, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(lm, name)  # the class's own again
