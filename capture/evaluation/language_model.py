"""The model of an evaluation: lm-eval's own `hf` model, whose passes are captured runs.

What `HFLM` does with text stays: how context and answer become tokens, which token begins an empty
context, the windows of a long text, the chat template. What it does with tokens is replaced: they
become the prompts of a run, and the answers are read from the run's token statistics.
"""

import bisect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from lpp.capture.corpus.template_process import rendered_elsewhere
from lpp.capture.evaluation.sequences import Answer, EncodedRequest, encoded_request
from lpp.store.errors import InputError

_DRAWS: Final = (
    *("do_sample", "num_beams", "num_return_sequences"),
    *("repetition_penalty", "no_repeat_ngram_size"),
)
"""Settings of a generation that take other tokens than the most likely one, unless 0 or 1."""


class Capture(Protocol):
    """Captures the requests of one task as a run and answers them."""

    def __call__(
        self, task: str, requests: Sequence[EncodedRequest], *, tokens: int = 0
    ) -> list[Answer]:
        """tokens: most tokens that the model writes after each."""


class CapturingLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """An lm-eval model that answers from captured runs.

    tokenizer: of the model. longest: C, most tokens of a prompt. tasks: lm-eval's task objects by
    name. capture: runs the requests of a task. fields: names of fields of the documents that the
    prompts carry.
    """

    def __init__(
        self,
        tokenizer: Any,
        longest: int,
        tasks: Mapping[str, Any],
        capture: Capture,
        fields: Sequence[str] = (),
    ) -> None:
        # not HFLM's own, which loads a model; these are what its methods on text read
        TemplateLM.__init__(self)
        self.tokenizer = tokenizer
        self.add_bos_token = self.custom_prefix_token_id = self.enable_thinking = None
        self.chat_template_args: dict[str, Any] = {}
        self._max_length = longest - 1  # of what the model reads; the last token is only predicted
        self._longest, self._tasks, self._capture = longest, tasks, capture
        self._doc_fields = tuple(fields)
        self._instances: Sequence[Any] = ()
        self._last_question: tuple[str, str, int | None] = ("", "", None)
        self.answers: dict[tuple[str, int], dict[int, list[Answer]]] = defaultdict(dict)
        """(task, item) -> index of the request -> its answers: several for a long text."""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of turns by the model's chat template. InputError if it takes too long."""
        with rendered_elsewhere():
            text: str = super().apply_chat_template(chat_history, add_generation_prompt)
        return text

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """(ln p, greedy) of each answer. requests: lm-eval's `Instance`s.

        An empty context is the prefix token. InputError for an answer that has no token, or none
        before it, where lm-eval's `hf` fails.
        """
        for instance in requests:
            before, after = instance.args[:2]
            if not before and not self.tok_encode(after, add_special_tokens=False):
                raise _without_token(instance)
        self._instances = requests  # HFLM hands their tokens to the next method in this order
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        encoded = []
        for instance, (_text, context, answer) in zip(self._instances, requests, strict=True):
            before, after = instance.args[:2]
            if not context:
                raise InputError(
                    f"{_item_name(instance)}: the context {before!r} has no token before the "
                    "answer: lm-eval moves white space from its end to the answer. Change the "
                    "task's doc_to_text; before an empty context lm-eval puts the token that "
                    "begins a text."
                )
            if not answer:
                raise _without_token(instance)
            encoded.append(self._encoded(instance, (before, after), context, answer))
        answers = self._answers(self._instances, [[request] for request in encoded])
        return [(of_request[0].log_likelihood, of_request[0].greedy) for of_request in answers]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows as lm-eval makes them."""
        encoded = []
        for instance in requests:
            (text,) = instance.args
            windows = [
                utils.make_disjoint_window(window)
                for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            several = len(windows) > 1
            encoded.append(
                [
                    self._encoded(
                        instance,
                        ("", self.tok_decode(answer) if several else text),
                        context,
                        answer,
                        choice=number,
                    )
                    for number, (context, answer) in enumerate(windows)
                ]
            )
        return [
            sum(answer.log_likelihood for answer in answers)
            for answers in self._answers(requests, encoded)
        ]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context, cut at the first of the stop strings.

        Greedy: the most likely token each time. All `max_gen_toks` tokens are written and
        captured, also those after a stop string; the answer is those before it.
        """
        if self.eot_token_id is None:
            raise InputError(
                f"task {requests[0].task_name} lets the model write, and its tokenizer has no "
                "token that ends a text (eos_token). Give a model whose tokenizer has one."
            )
        ends = self.tok_decode([self.eot_token_id], skip_special_tokens=False)
        by_length: dict[int, list[int]] = defaultdict(list)
        stops = []
        for number, instance in enumerate(requests):
            how = normalize_gen_kwargs(dict(instance.args[1]), self.max_gen_toks)
            _check_greedy(instance, how)
            stops.append(handle_stop_sequences(how.get("until"), eos=ends))
            by_length[how["max_gen_toks"]].append(number)
        texts = [""] * len(requests)
        for tokens, numbers in sorted(by_length.items()):
            group = [requests[number] for number in numbers]
            encoded = [[self._beginning(instance, tokens)] for instance in group]
            answers = self._answers(group, encoded, tokens=tokens)
            for number, (answer,) in zip(numbers, answers, strict=True):
                text = postprocess_generated_text(
                    generation=self.tok_decode(list(answer.written)),
                    stop=stops[number],
                    think_end_token=None,
                )
                texts[number], of = text, requests[number]
                cut = answer.cut(self._tokens_of(text, answer.written))
                self.answers[of.task_name, of.doc_id][of.idx] = [cut]
        return texts

    def _tokens_of(self, text: str, written: Sequence[int]) -> int:
        """The fewest of the first tokens of `written` that spell `text`, the beginning of theirs.

        The last one may spell a part of the stop string as well.
        """
        return bisect.bisect_left(
            range(len(written)),
            True,
            key=lambda n: self.tok_decode(list(written[:n])).startswith(text),
        )

    def _beginning(self, instance: Any, tokens: int) -> EncodedRequest:
        """The context of a generation of up to `tokens` tokens."""
        room = self.max_length - tokens
        if room < 1:
            raise InputError(
                f"task {instance.task_name} lets the model write {tokens} tokens, and a prompt has "
                f"{self._longest} with them. Choose a larger --context, or a smaller max_gen_toks "
                "in the task."
            )
        context = self.tok_encode(instance.args[0])
        if not context:
            context = [self.prefix_token_id]
        return self._encoded(instance, (instance.args[0], ""), context, [], longest=room)

    def _encoded(
        self,
        instance: Any,
        texts: tuple[str, str],
        context: list[int],
        answer: list[int],
        *,
        choice: int | None = None,
        longest: int | None = None,
    ) -> EncodedRequest:
        request = encoded_request(
            texts, context, answer, longest or self._longest, _item_name(instance)
        )
        carried: dict[str, object] = {
            "task": instance.task_name,
            "item": instance.doc_id,
            "choice": instance.idx if choice is None else choice,
            "n_context": request.n_context,
        }
        before = self._before_question(instance)
        if before is not None:
            carried["n_before_question"] = max(0, before - request.dropped)
        for name in ("id", *self._doc_fields):
            if name in instance.doc:
                carried[name] = instance.doc[name]
        return replace(request, fields=carried, document=tuple(instance.doc))

    def _before_question(self, instance: Any) -> int | None:
        """Tokens of the context that end before the question begins; None where that cannot be
        said: the question is no text, or is not in the context as it is.
        """
        question = self._tasks[instance.task_name].doc_to_text(instance.doc)
        if len(instance.args) < 2 or not isinstance(question, str) or not question.strip():
            return None
        key = instance.args[0].rstrip(), question.strip()
        if key != self._last_question[:2]:  # the answers of an item share it
            self._last_question = (*key, self._tokens_before(*key))
        return self._last_question[2]

    def _tokens_before(self, context: str, question: str) -> int | None:
        start = context.rfind(question)
        if start < 0 or not getattr(self.tokenizer, "is_fast", False):
            return None
        encoding = self.tokenizer(context, return_offsets_mapping=True, verbose=False)
        special = len(encoding["input_ids"]) - len(self.tok_encode(context))  # a second BOS
        before = sum(bool(end <= start) for _, end in encoding["offset_mapping"])
        return max(0, before - special)

    def _answers(
        self,
        instances: Sequence[Any],
        encoded: Sequence[Sequence[EncodedRequest]],
        *,
        tokens: int = 0,
    ) -> list[list[Answer]]:
        """The answers of the requests of each instance, task by task."""
        by_task: dict[str, list[int]] = defaultdict(list)
        for number, instance in enumerate(instances):
            by_task[instance.task_name].append(number)
        by_instance: list[list[Answer]] = [[] for _ in instances]
        for task, numbers in by_task.items():
            requests = [request for number in numbers for request in encoded[number]]
            answers = iter(self._capture(task, requests, tokens=tokens))
            for number in numbers:
                by_instance[number] = [next(answers) for _ in encoded[number]]
                instance = instances[number]
                self.answers[task, instance.doc_id][instance.idx] = by_instance[number]
        return by_instance


def _check_greedy(instance: Any, how: Mapping[str, Any]) -> None:
    drawn = [name for name in _DRAWS if how.get(name) not in (None, False, 0, 1, 1.0)]
    if how.get("do_sample"):
        drawn = ["do_sample", *drawn]
    if drawn:
        raise InputError(
            f"task {instance.task_name} sets {', '.join(dict.fromkeys(drawn))}: this command takes "
            "the most likely token each time. Choose a task that does."
        )


def _without_token(instance: Any) -> InputError:
    return InputError(
        f"{_item_name(instance)}: the answer {instance.args[1]!r} has no token of its own: it is "
        "empty, or the tokenizer joins it to the context. Change the task's answers or its "
        "target_delimiter."
    )


def _item_name(instance: Any) -> str:
    return f"item {instance.doc_id} of {instance.task_name}"
