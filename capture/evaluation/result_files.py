"""The files that lm-eval writes of an evaluation, as bytes."""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

_LONGEST: Final = 180
"""Bytes of a name in a file's: a file system holds 255, and lm-eval adds a time."""


def result_files(
    results: Mapping[str, Any],
    *,
    kind: str,
    model: str,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
    chat_template: str | None,
    as_turns: bool,
    samples: Sequence[str] = (),
) -> dict[str, bytes]:
    """lm-eval's result file, and its item logs of the tasks `samples`; by file name below a folder
    that is named after the model.

    results: of `lm_eval.evaluate`, with samples. kind: how the model ran, such as `hf`. model: its
    name. arguments: those of lm-eval's `--model_args`. settings: further ones of the evaluation.
    """
    from lm_eval.loggers import EvaluationTracker

    aggregated = {name: value for name, value in results.items() if name != "samples"}
    aggregated["config"] = {"model": kind, "model_args": dict(arguments), **settings}
    aggregated["lm_eval_version"] = version("lm_eval")
    aggregated["transformers_version"] = version("transformers")
    with tempfile.TemporaryDirectory() as folder:
        tracker = EvaluationTracker(output_path=folder)
        tracker.general_config_tracker.log_experiment_args(
            model_source=kind,
            model_args={"pretrained": model},
            system_instruction=None,
            chat_template=chat_template,
            fewshot_as_multiturn=as_turns,
        )
        tracked = tracker.general_config_tracker
        tracked.model_name_sanitized = file_name(tracked.model_name_sanitized)
        tracker.save_results_aggregated(results=aggregated, samples=results["samples"])
        for task in samples:
            tracker.save_results_samples(
                task_name=file_name(task), samples=results["samples"][task]
            )
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def file_name(name: str) -> str:
    """`name` as a part of the name of a file in a store: without slashes and a dot in front, and
    not too long. lm-eval takes a task's name as it is, and loses the log where it cannot.

    >>> file_name("a/b"), file_name(".hidden"), file_name("arc_easy")
    ('a__b', '_.hidden', 'arc_easy')
    """
    safe = re.sub(r"[/\\]", "__", name)
    safe = f"_{safe}" if safe.startswith(".") else safe
    if len(safe.encode()) <= _LONGEST:
        return safe
    digest = hashlib.sha256(safe.encode()).hexdigest()[:8]
    return f"{safe.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
