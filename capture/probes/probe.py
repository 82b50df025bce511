"""The probes, asked and scored by lm-eval (tasks in `tasks/`).

What is added here: each score gets its own number of items, and a standard error that knows which
items share a scene; prompts that the model cannot hold are refused rather than cut.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lpp.capture.models.machine import out_of_memory
from lpp.capture.probes.items import TASKS, Probe
from lpp.capture.probes.subject import ProbeRequest, Subject, quiet_lm_eval
from lpp.capture.probes.uncertainty import interval, standard_error
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.errors import ErrorKind, InputError, MachineError

GROUPS: Final[dict[Probe, str]] = {"ar": "lpp_ar", "spc": "lpp_spc"}
"""Name of each probe in lm-eval."""

LONGEST_ANSWER: Final = 32
"""Tokens of an answer at most: `max_gen_toks` of the tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """One score of a model."""

    task: str
    metric: str
    """Metric and filter, as lm-eval writes them: `answer_acc,none`."""
    value: float
    stderr: float | None
    n: int
    """Items that count for it."""
    clusters: int
    """Scenes, or single items, that count for it."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        return interval(self.value, self.stderr, self.clusters)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Scores of one model on one probe."""

    probe: Probe
    scores: tuple[ProbeScore, ...]
    file: str
    """Name of lm-eval's result file, under a folder of the model's."""
    document: bytes
    """Its content."""


def run_probe(
    probe: Probe,
    request: ProbeRequest,
    subject: Subject,
    *,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> ProbeResult:
    """Ask every item of one probe. progress: advanced by one for each request to the model."""
    import lm_eval

    watched = _in_chunks(subject.lm, request, progress)
    with quiet_lm_eval(quiet), _enough_memory(request, subject), watched:
        tasks = _tasks(probe, request)
        _refuse_long_prompts(tasks["tasks"].values(), request, subject)
        results: Any = lm_eval.evaluate(
            lm=subject.lm,
            task_dict=tasks,
            limit=request.limit,
            log_samples=True,
            apply_chat_template=request.chat,
            fewshot_as_multiturn=request.chat,
        )
    scores = tuple(_scores(results))
    file, document = _result_file(results, request, subject)
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


def _refuse_long_prompts(tasks: Any, request: ProbeRequest, subject: Subject) -> None:
    """lm-eval would cut them from the left, and score what is left of the question."""
    for task in tasks:
        contexts = (
            task.fewshot_context(
                doc,
                num_fewshot=request.shots,
                apply_chat_template=request.chat,
                fewshot_as_multiturn=request.chat,
                chat_template=subject.lm.apply_chat_template if request.chat else None,
            )
            for doc in list(task.eval_docs)[: request.limit]
        )
        needed = len(subject.lm.tok_encode(max(contexts, key=len))) + LONGEST_ANSWER
        if needed > subject.lm.max_length:
            raise InputError(
                f"{task.config.task} with {request.shots} shots takes up to {needed} tokens, and "
                f"{subject.id} has {subject.lm.max_length} positions. Use fewer: --shots 2.",
                kind=ErrorKind.INVALID_VALUE,
            )


def _scores(results: Any) -> Iterator[ProbeScore]:
    """Every score, from lm-eval's record of single items, in the order of the tasks' metrics."""
    for task, records in sorted(results["samples"].items()):
        for metric in results["higher_is_better"][task]:
            counted = [record for record in records if metric in record["metrics"]]
            if not counted:
                continue  # the first few items may hold none that counts for it
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


def _result_file(results: Any, request: ProbeRequest, subject: Subject) -> tuple[str, bytes]:
    """(name below a folder of the model's, content) of the file that lm-eval writes."""
    from importlib.metadata import version

    from lm_eval.loggers import EvaluationTracker

    kind = "hf" if request.backend == "torch" else "vllm"
    template = subject.lm.chat_template(True) if request.chat else None
    samples = results.pop("samples")
    results["config"] = {
        "model": kind,
        "model_args": dict(subject.arguments),
        "limit": request.limit,
        "item_seed": request.item_seed,
    }
    results["lm_eval_version"] = version("lm_eval")
    results["transformers_version"] = version("transformers")
    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_path=folder)
        tracker.general_config_tracker.log_experiment_args(
            model_source=kind,
            model_args={"pretrained": subject.id},
            system_instruction=None,
            chat_template=template,
            fewshot_as_multiturn=request.chat,
        )
        tracker.save_results_aggregated(results=results, samples=samples)
        (path,) = Path(folder).rglob("results_*.json")
        return path.relative_to(folder).as_posix(), path.read_bytes()


@contextmanager
def _enough_memory(request: ProbeRequest, subject: Subject) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise MachineError(
            f"out of memory while {subject.id} was asked {request.batch_size} prompts at once. "
            "Repeat with a smaller --batch-size, or with fewer --shots.",
            kind=ErrorKind.NO_MEMORY,
        ) from error


@contextmanager
def _in_chunks(lm: Any, request: ProbeRequest, progress: Progress) -> Iterator[None]:
    """Hand requests to the model in groups, and report each; lm-eval's own bars stay away.

    Sixteen batches a group: enough to sort by length. vLLM gets everything at once, and sorts.
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
