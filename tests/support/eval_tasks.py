"""Small tasks of lm-eval, one of each kind, from local files; and lm-eval's own `hf` on them."""

import json
from pathlib import Path
from typing import Any

import yaml

ANSWERS = ["the fox", "a dog!", "every layer", "it is 3"]
METRICS: dict[str, list[tuple[str, str, bool]]] = {
    "multiple_choice": [("acc", "mean", True), ("acc_norm", "mean", True)],
    "loglikelihood": [("acc", "mean", True), ("perplexity", "perplexity", False)],
    "loglikelihood_rolling": [
        ("word_perplexity", "weighted_perplexity", False),
        ("bits_per_byte", "bits_per_byte", False),
    ],
    "generate_until": [("exact_match", "mean", True)],
}
TEXTS: dict[str, dict[str, Any]] = {
    "multiple_choice": {
        "doc_to_text": "Q: {{question}} A:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
    },
    "loglikelihood": {"doc_to_text": "{{question}}", "doc_to_target": " {{choices[gold]}}"},
    "loglikelihood_rolling": {"doc_to_text": "", "doc_to_target": "{{text}}"},
    "generate_until": {
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["o", "\n"], "max_gen_toks": 8, "do_sample": False},
    },
}
NAMES = {
    "multiple_choice": "tiny_mc",
    "loglikelihood": "tiny_ll",
    "loglikelihood_rolling": "tiny_roll",
    "generate_until": "tiny_gen",
}


def document(number: int) -> dict[str, Any]:
    """One item. Texts have three lengths and different endings: lm-eval's cache of logits confuses
    windows that differ only in where the answer begins.
    """
    words = "the lazy dog jumps and the quick fox does not mind " * (1 + number % 3 * 2)
    return {
        "id": f"doc-{number}",
        "question": f"{number} or {number + 3}?",
        "choices": ANSWERS,
        "gold": number * 7 % 4,
        "subject": "even" if number % 2 == 0 else "odd",
        "text": f"{number} times {words}, {number} again",
    }


def write_task(folder: Path, kind: str, *, items: int = 6, shots: int = 2, **changes: Any) -> str:
    """Write a task of `kind`, an output type, with `items` items; returns its name."""
    name = str(changes.get("task", NAMES[kind]))
    documents = {"test": range(items), "shots": range(90, 90 + shots)}
    files = {}
    for split, numbers in documents.items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        lines = [json.dumps(document(number)) + "\n" for number in numbers]
        Path(files[split]).write_text("".join(lines), "utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "shots",
        "output_type": kind,
        "metric_list": [
            {"metric": metric, "aggregation": how, "higher_is_better": better}
            for metric, how, better in METRICS[kind]
        ],
        **TEXTS[kind],
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), "utf-8")
    return name


def by_lm_eval(
    model: Any, tokenizer: Any, folder: Path, *, max_length: int, **options: Any
) -> dict[str, Any]:
    """Results of `lm_eval.simple_evaluate` with lm-eval's own `hf` model for every task in
    `folder`.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=max_length)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm,
        tasks=manager.all_subtasks,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    return results


def evaluate_in_small_shards(root: object, model: object, tasks: object) -> None:
    """Evaluate `tasks` in shards of a few requests each."""
    from lpp.capture.corpus.selection import Selection
    from lpp.capture.evaluation.evaluate import evaluate_into
    from lpp.capture.evaluation.request import EvalRequest
    from lpp.capture.models.spec import ModelSpec
    from lpp.capture.plan.request import CaptureRequest, CorpusSpec

    capture = CaptureRequest(
        model=ModelSpec(id=str(model)),
        corpus=CorpusSpec(name="lm-eval"),
        selection=Selection(prompts=1, min_bytes=0),
        sites=("final",),
        backend="torch",
        batch_tokens=32,
        shard_bytes=4000,
    )
    evaluate_into(Path(str(root)), EvalRequest(capture=capture, tasks=(str(tasks),)))
