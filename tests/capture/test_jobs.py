"""Files of jobs: what they make, and that everything wrong with one is said at once."""

from pathlib import Path

import pytest

from lpp.capture.jobs.file import JobsFile, command_line, parse_jobs, read_jobs
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import ErrorKind, InputError
from lpp.store.settings.setting import declared
from lpp.store.settings.values import Assignments, Flag, Names, Number, Text, Values

WHOLE = """
store = "lpp"
models = ["lab/one", { model = "lab/two", dtype = "float32", sites = ["embed", "final"] }]

[defaults]
prompts = 7
trust-remote-code = true

[[corpora]]
corpus = "pydoc"

[[corpora]]
corpus = "texts/mine.jsonl"
text_field = "body"

[matrix]
context = [20, 50]
untrained-seed = [3]
"""


def parsed(text: str) -> JobsFile:
    return parse_jobs(text, "jobs.toml")


def problems(text: str) -> list[str]:
    """Everything the refusal lists."""
    with pytest.raises(InputError) as caught:
        parsed(text)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    head, *listed, _ = str(caught.value).splitlines()
    many = "" if len(listed) == 1 else "s"
    assert head == f"jobs.toml: {len(listed)} problem{many}, so nothing was run."
    return [line.strip() for line in listed]


def test_models_times_corpora_times_settings() -> None:
    file = parsed(WHOLE)
    assert file.store == "lpp"
    told = [
        (j.request.model.id, j.request.corpus.name, j.request.corpus.text_field, j.request.context)
        for j in file.jobs
    ]
    assert told == [
        (model, corpus, field, context)
        for model in ("lab/one", "lab/two")
        for corpus, field in (("pydoc", None), ("texts/mine.jsonl", "body"))
        for context in (20, 50)
    ]
    for job in file.jobs:
        two = job.request.model.id == "lab/two"
        assert job.request.selection.prompts == 7
        assert job.request.model.trust_remote_code
        assert job.request.model.untrained_seed == 3
        assert job.request.model.dtype == ("float32" if two else "auto")
        assert job.request.sites == (("embed", "final") if two else ("all",))


def test_names_tell_jobs_apart_by_what_differs() -> None:
    names = [job.name for job in parsed(WHOLE).jobs]
    assert len(set(names)) == len(names)
    assert names[:3] == [
        "one x pydoc context=20",
        "one x pydoc context=50",
        "one x mine.jsonl context=20",
    ]
    twins = parsed('models = ["a", {model = "a", untrained-seed = 0}]\ncorpora = ["c"]')
    assert [job.name for job in twins.jobs] == ["a x c", "a x c untrained-seed=0"]


def test_a_job_is_a_command_that_a_user_can_type() -> None:
    file = parsed('models = ["my model"]\n[defaults]\ncorpus = "pydoc"\ntrust_remote_code = false')
    assert command_line(file.jobs[0], "--store=x") == (
        "lpp-capture run --corpus=pydoc '--model=my model' --store=x"
    )


def in_a_file(values: Values) -> str:
    """A value of a setting, as TOML has it."""
    match values:
        case Flag():
            return "true"
        case Number(whole=whole):
            return "3" if whole else "0.5"
        case Assignments():
            return '["seed=3"]'
        case Text(choices=choices) if choices:
            return f'"{choices[0]}"'
    assert isinstance(values, Text | Names)
    return '"x"'


def test_every_option_of_the_command_is_known_to_the_file() -> None:
    known = declared(CaptureSettings)
    assert {"model", "corpus", "min-bytes", "shard-mib", "sites"} <= known.keys()
    needed = {"corpus": '"c"', "model": '"m"', "min-tokens": "3", "count-with": '"m"'}
    needed |= {"continue": "3", "temperature": "0.5"}
    of_sites = {"sites": '"final"', "stored-dtype": '"float8_e4m3"'}
    beside = {"series": {"step": "3"}, "step": {"series": '"s"'}}
    for name, one in known.items():
        value = of_sites[name] if name in of_sites else in_a_file(one.values)
        given = needed | {name: value} | beside.get(name, {})
        lines = "\n".join(f"{key} = {said}" for key, said in given.items())
        assert len(parsed(f"[defaults]\n{lines}").jobs) == 1, name


def test_an_option_that_may_be_repeated_is_a_list() -> None:
    text = 'corpora = ["c"]\n[[models]]\nmodel = "m"\nengine-option = '
    (job,) = parsed(text + '["gpu_memory_utilization=0.8", "seed=3"]').jobs
    assert job.request.engine_options == {"gpu_memory_utilization": 0.8, "seed": 3}
    assert job.arguments[1:3] == (
        "--engine-option=gpu_memory_utilization=0.8",
        "--engine-option=seed=3",
    )
    assert problems(text + "[3]") == ["models[0].engine-option should be a list of strings, is [3]"]
    assert problems(text + '"seed"') == ["models[0].engine-option: 'seed' is not NAME=VALUE"]


@pytest.mark.parametrize("name", ["store", "jobs", "part", "resume", "report", "debug", "dry-run"])
def test_what_is_no_setting_of_a_job_is_unknown(name: str) -> None:
    (problem,) = problems(f'models = ["m"]\ncorpora = ["c"]\n[defaults]\n{name} = "x"')
    assert problem.startswith(f"defaults.{name}: `lpp-capture run` has no such option")


def test_all_problems_in_one_message_each_with_its_place() -> None:
    text = """
modles = ["a"]
store = 3
corpora = []

[defaults]
prompts = "many"
dtype = "int3"
trust-remote-code = "yes"
min-bytes = 1
min_bytes = 2
context = 0
seed = true

[[models]]
dtpye = "float32"

[[models]]
model = 5
sites = ["final", 3]

[matrix]
context = [20, 2.5]
seed = 3
batch-tokens = []
"""
    assert problems(text) == [
        "modles: not known here. Did you mean models?",
        "store should be a string, is 3",
        "defaults.prompts should be an integer, is 'many'",
        "defaults.dtype: 'int3' is not one of 'auto', 'bfloat16', 'float16', 'float32'.",
        "defaults.trust-remote-code should be true or false, is 'yes'",
        "defaults.min_bytes: given twice, with a dash and an underscore",
        "defaults.context: 0 is not in the range x>=1.",
        "defaults.seed should be an integer, is True",
        "models[0].dtpye: `lpp-capture run` has no such option. Did you mean dtype?",
        "models[0] names no model",
        "models[1].model should be a string, is 5",
        "models[1].sites should be a list of strings, is ['final', 3]",
        "corpora should be a list of at least one corpus, is []",
        "matrix[1].context should be an integer, is 2.5",
        "matrix.seed should be a list of values, is 3",
        "matrix.batch-tokens should be a list of values, is []",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models = [", ["not TOML: "]),
        ("a = 1\na = 2", ["not TOML: "]),
        ("", ["no model: add a table [[models]]", "no corpus: add a table [[corpora]]"]),
        ('defaults = "x"', ["defaults should be a table of options, is 'x'"]),
        (
            "[matrix]\nmin-bytes = [1]\nmin_bytes = [2]",
            ["matrix.min_bytes: given twice, with a dash and an underscore"],
        ),
        ("matrix = [1]", ["matrix should be a table of lists, is [1]"]),
        ('models = "m"', ["models should be a list of at least one model, is 'm'"]),
        ("models = [3]", ["models[0] should be a table of options, is 3"]),
        ("models = [{}]", ["models[0] names no model"]),
        ('models = ["m", "m"]\ncorpora = ["c"]', ["jobs 1 and 2 are the same: --model=m"]),
        (
            'models = ["m", {model = "m", context = 200}]\ncorpora = ["c"]',  # 200 is the default
            ["jobs 1 and 2 are the same: "],
        ),
        (
            'models = [{model = "m", seed = 1}]\ncorpora = [{corpus = "c", seed = 2}]',
            ["seed: given by models[0] and by corpora[0]; leave it in one of them"],
        ),
        (
            'models = [{model = "m", seed = 1}]\ncorpora = ["c"]\n[matrix]\nseed = [1, 2]',
            ["seed: given by models[0] and by matrix;"],
        ),
        (
            'models = ["m", "n"]\ncorpora = ["c"]\n[defaults]\nmin-tokens = 4',
            ["job 1, m x c: --min-tokens and --count-with go together"],
        ),
    ],
)
def test_a_wrong_file_is_refused(text: str, says: list[str]) -> None:
    found = problems(text)
    assert any(found[-1].startswith(words) for words in says), found
    for words in says:
        assert any(problem.startswith(words) for problem in found), found


def test_a_hundred_problems_are_counted_and_twenty_shown() -> None:
    text = "[defaults]\n" + "\n".join(f"x{k} = 1" for k in range(100))
    with pytest.raises(InputError, match="100 problems") as caught:
        parsed(text)
    assert "and 80 more" in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not readable as UTF-8"):
        read_jobs(path)
