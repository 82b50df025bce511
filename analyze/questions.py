"""What a user can ask of a store. Each setting is declared here alone: the commands have it as an
option, the library takes it as a field.

Nothing heavy is imported: `--help` reads this file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from lpp.store.format.run_names import RUN_HELP
from lpp.store.format.schedule import GROUPS
from lpp.store.settings.arguments import check_settings
from lpp.store.settings.setting import setting

ErrorSites = Literal["none", "final", "all"]
"""Sites at which errors are computed; final: at `final`, or at the deepest site chosen."""

Aggregation = Literal["min", "max", "mean", "median"]
"""How a profile aggregates a metric over prefixes."""

_ERRORS: Final = "Compute errors at these sites, which takes up to 11 times as long at each."

SEEDS: Final = 2**63
"""Seeds are below this."""


def _runs() -> Any:
    return setting(("*",), f"{RUN_HELP} Default: every run.", name="RUN", positional=True)


def _sites(default: Sequence[str] = ("*",)) -> Any:
    words = "every site" if default == ("*",) else ",".join(default)
    return setting(
        default,
        f"Use these sites, such as final,'block.*'. Default: {words}.",
        metavar="NAME,...",
        completes="sites",
    )


def _contexts(default: str = "the captured context") -> Any:
    text = f"Cut prompts at these lengths in tokens. Default: {default}."
    return setting(None, text, name="context", metavar="N,...")


def _numbers_of_prompts(default: str = "all") -> Any:
    text = f"Use the first N prompts, for each N. Default: {default}."
    return setting(None, text, metavar="N,...")


def _prompts(default: str = "all", *, verb: str = "Use") -> Any:
    return setting(None, f"{verb} the first N prompts. Default: {default}.", least=1, metavar="N")


def _skip_first(of: str = "prompt") -> Any:
    return setting(
        0,
        f"Leave out the first N tokens of each {of}, often attention sinks.",
        least=0,
        metavar="N",
    )


def _seed(text: str) -> Any:
    return setting(0, text, least=0, most=SEEDS - 1)


def _cluster_of_prompts() -> Any:
    return setting(
        None,
        "Compute errors over clusters: prompts with the same value of this field, such as passages "
        "of one document, are left out together.",
        metavar="FIELD",
    )


def _source() -> Any:
    return setting(
        None,
        "Use the scores of this source. Needed if the run has several sources.",
        metavar="NAME",
    )


def _filter() -> Any:
    return setting(
        None,
        "Use this filter of lm-eval. Needed if the task has several filters.",
        metavar="NAME",
    )


class _Question:
    """Settings that refuse, when they are made, what their command refuses."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Selection(_Question):
    """Part of a store, by patterns such as `block.*`; the default is all of it."""

    contexts: Sequence[int] | None = _contexts()
    """None: each run's own."""
    prompts: Sequence[int] | None = _numbers_of_prompts()
    """None: all that are committed."""
    sites: Sequence[str] = _sites()
    runs: Sequence[str] = _runs()
    skip_first: Sequence[int] = setting(
        (0,),
        "Compute ranks without the first N tokens of each prompt, often attention sinks, for each "
        "N. given: from the first token that the model wrote (lpp-capture run --continue).",
        metavar="N,...",
        word="given",
    )
    """Several spectra, each of the rows at positions from k on."""


@dataclass(frozen=True, kw_only=True)
class ProfileSettings(Selection):
    """`lpp-analyze profile`: what is computed, and how it is aggregated over prefixes."""

    entropy_by: Aggregation = setting("min", "Print this aggregate of the entropy over prefixes.")
    rank_by: Aggregation = setting("max", "Print this aggregate of the ranks over prefixes.")
    drop_prefixes: Sequence[int] = setting(
        (), "Leave these prefixes out of the aggregates.", metavar="N,..."
    )
    metrics: Sequence[str] = setting(
        ("paper",),
        "Compute these metrics; `lpp-analyze metrics` lists them.",
        metavar="NAME,...",
        completes="metrics",
    )
    errors: ErrorSites = setting("final", _ERRORS)
    groups: int = setting(
        GROUPS, "Divide the prompts into this many groups for the jackknife.", least=2
    )
    cluster: str | None = _cluster_of_prompts()
    against: str | None = setting(
        None,
        "Compare the other runs with this one: a difference is a run's number minus that of BASE. "
        "Default: the first RUN, or the first by id.",
        metavar="BASE",
        completes="runs",
    )


@dataclass(frozen=True, kw_only=True)
class LayersSettings(Selection):
    """`lpp-analyze layers`."""

    skip_first: Sequence[int] = setting(
        (0,),
        "Leave out the first N tokens of each prompt, for each N. Default: 0, and as many as the "
        "attention sinks of a run need.",
        metavar="N,...",
        word="given",
    )
    errors: ErrorSites = setting("none", _ERRORS)


@dataclass(frozen=True, kw_only=True)
class CkaSettings(_Question):
    """`lpp-analyze cka`."""

    runs: Sequence[str] = _runs()
    sites: Sequence[str] = _sites()
    prefix: int | None = setting(
        None, "Use the first N tokens of each prompt. Default: all.", least=1, metavar="N"
    )
    prompts: int | None = _prompts()
    skip_first: int = _skip_first()
    all_pairs: bool = setting(False, "Compare every two sites, not only neighbours.")


@dataclass(frozen=True, kw_only=True)
class DiffSettings(_Question):
    """`lpp-analyze diff`: which tokens and sites of two runs are compared."""

    sites: Sequence[str] = _sites()
    skip_first: int = _skip_first()
    prompts: int | None = _prompts("all that both runs share", verb="Compare")
    tokens: int | None = setting(
        None,
        "Compare the predictions of N tokens drawn at random. Default: all tokens.",
        least=1,
        metavar="N",
    )
    seed: int = _seed("Draw the tokens of --tokens from this seed.")
    errors: ErrorSites | None = setting(
        None,
        "Compute errors of CKA, overlap and ranks at these sites, which takes 11 times as long. "
        "Default: final, or all if --fail-if needs them.",
    )
    cluster: str | None = _cluster_of_prompts()
    rerun: str | None = setting(
        None,
        "Call a site moved only if it moves more than four times as far as in RUN, which is the "
        "model of RUN_A or BASE captured with another engine, kernel or batch.",
        metavar="RUN",
        completes="runs",
    )


@dataclass(frozen=True, kw_only=True)
class GateSettings(_Question):
    """When `lpp-analyze diff` fails."""

    conditions: Sequence[str] = setting(
        (),
        "Exit with code 1 if CONDITION holds, such as 'kl.mean > 0.01'; may be repeated.",
        name="fail-if",
        metavar="CONDITION",
        repeated=True,
    )
    strict: bool = setting(
        False, "Compare the number itself with the limit of --fail-if, not its interval."
    )
    allow_missing: float | None = setting(
        None,
        "Let --fail-if pass if up to this share of the prompts of RUN_A or BASE takes no part. "
        "Default: 0.01.",
        least=0,
        most=1,
        metavar="SHARE",
    )


@dataclass(frozen=True, kw_only=True)
class ItemsSettings(_Question):
    """`lpp-analyze items`: which scores of a task, and what is ranked."""

    source: str | None = _source()
    filter: str | None = _filter()
    cluster: str | None = setting(
        None,
        "Items with equal values of this field of their documents are not independent. Default: "
        "what the task declares.",
        metavar="FIELD",
    )
    sites: Sequence[str] = _sites()
    skip_first: int = _skip_first("question")
    seed: int = _seed("Draw folds, shuffled labels and resamples from this seed.")


@dataclass(frozen=True, kw_only=True)
class TargetSettings(_Question):
    """`lpp-analyze export --targets`: which tokens of each next-token distribution."""

    k: int = setting(64, "With topk: the N most likely tokens.", least=1, metavar="N")
    samples: int = setting(
        32, "With sampled: N tokens drawn with replacement.", least=1, metavar="N"
    )
    temperature: float = setting(1.0, "Divide logits by this, above 0.", least=0)
    seed: int = _seed("Draw samples from this seed.")
    where: str | None = setting(
        None,
        "Only prompts for which this condition of SQL holds, on prompt_id, n_tokens and fields.",
        metavar="SQL",
    )

    def chosen(self, kind: Literal["topk", "sampled"]) -> dict[str, Any]:
        """How targets are chosen: arguments of `Teacher.targets`."""
        return {"k": self.k} if kind == "topk" else {"samples": self.samples, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class PublishSettings(_Question):
    """`lpp-analyze publish`: what of a store others get, and under which licence."""

    sites: Sequence[str] = _sites()
    tables: Sequence[str] | None = setting(
        None,
        "Publish these tables of the database, beside `runs`. Default: all that may be.",
        metavar="NAME,...",
    )
    with_texts: bool = setting(
        False, "Publish rows, token ids, token statistics and texts too, for which see above."
    )
    fields: Sequence[str] = setting(
        (),
        "With --with-texts: publish these labels of prompts or tokens (token.NAME), and `id`. "
        "Default: none.",
        metavar="NAME,...",
    )
    licence: str | None = setting(
        None,
        "State this licence in the card, such as CC-BY-4.0. Needed with --with-texts.",
        metavar="TEXT",
    )
    source: str | None = setting(
        None, "State where the texts come from. Needed with --with-texts.", metavar="TEXT"
    )


@dataclass(frozen=True, kw_only=True)
class LabelProbeSettings(_Question):
    """`lpp-analyze probe`: which rows predict a label, and how it is checked."""

    rows: str = setting(
        "last",
        "Read this row of each prompt: last, mean (over its tokens), or a position from 0. Or rows "
        "of tokens: each, or those where FIELD of tokens is true, such as loss_mask.",
        metavar="last|mean|N|each|FIELD",
    )
    sites: Sequence[str] = _sites()
    skip_first: int = _skip_first()
    group: str | None = setting(
        None,
        "Put prompts with equal values of this field into one fold, such as those of one author.",
        metavar="FIELD",
    )
    cluster: str | None = setting(
        None,
        "Prompts with equal values of this field, such as passages of one document, are not "
        "independent: put them into one fold, and compute errors and shuffles by cluster.",
        metavar="FIELD",
    )
    task: str | None = setting(
        None,
        "With --label right: whether items of this evaluated task are right, from the row before "
        "the answer.",
        metavar="NAME",
    )
    source: str | None = _source()
    filter: str | None = _filter()
    folds: int = setting(5, "Divide the prompts into this many folds.", least=3)
    seed: int = _seed("Draw folds, shuffled labels and random directions from this seed.")


SharedPrompts = Literal["refuse", "leave-out", "only"]
"""What a test of a probe on another run does with prompts that the probe was fitted to."""


@dataclass(frozen=True, kw_only=True)
class ProbeTestSettings(_Question):
    """`lpp-analyze probe --against` and `--test-on`: a probe of one run on the rows of another."""

    site_pairs: Mapping[str, str] = setting(
        {},
        "Read the rows of SITE_B where the probe is of SITE; may be repeated. Default: every site "
        "that both runs have.",
        name="site-pair",
        metavar="SITE=SITE_B",
    )
    margin: float = setting(
        0.05,
        "With --against and --test-on: a loss of AUROC, and a change of the share of prompts above "
        "the threshold, up to this size does not matter.",
        least=0.001,
        most=0.5,
    )
    rerun: str | None = setting(
        None,
        "With --against: RUN captured again, which says what no change looks like: a run of STORE "
        "(of another --batch-tokens or --attention), or STORE::RUN.",
        metavar="RUN",
        completes="runs",
    )
    test_label: str | None = setting(
        None,
        "With --test-on: the label of the other run's prompts. Default: that of --label.",
        metavar="FIELD[=VALUE]",
    )
    shared_prompts: SharedPrompts = setting(
        "refuse",
        "With --test-on, prompts that both runs hold: refuse to test on them, leave them out, or "
        "test on only them, by probes that saw other folds.",
    )


@dataclass(frozen=True, kw_only=True)
class ProbeGateSettings(GateSettings):
    """When `lpp-analyze probe --against` or `--test-on` fails."""

    conditions: Sequence[str] = setting(
        (),
        "Exit with code 1 if the verdict is degraded, stale or inconclusive (NOT SERVING fails for "
        "each), or if a condition holds, such as 'probe_auroc_change < -0.1'; may be repeated.",
        name="fail-if",
        metavar="VERDICT|CONDITION",
        repeated=True,
    )


def _patterns(text: str, name: str, metavar: str = "NAME,...") -> Any:
    text = f"{text}; a name may be a pattern. Default: every one."
    return setting(("*",), text, name=name, metavar=metavar)


Unit = Literal["auto", "percent", "fraction", "other"]
"""What scores are counted in: `auto` refuses a benchmark that holds both, `other` checks none."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(_Question):
    """`lpp-analyze benchmarks add`: what files of scores mean, and which scores to take."""

    source: str | None = setting(
        None,
        "Call the source by this name. Default: lm-eval, inspect, or the name of the file.",
        metavar="NAME",
    )
    matches: Mapping[str, str] = setting(
        {},
        "The model NAME in the scores is RUN, an id or a name of a run; may be repeated.",
        name="match",
        metavar="NAME=RUN",
    )
    models: Sequence[str] = _patterns("Read the scores of these models only", "model")
    benchmarks: Sequence[str] = _patterns("Read the scores of these benchmarks only", "benchmark")
    unit: Unit = setting(
        "auto", "Read scores in this unit; auto refuses a benchmark that mixes two."
    )
    items: bool = setting(
        False, "Join each item of the logs to the captured prompt with the same text."
    )
    group: str | None = setting(
        None,
        "With --items: group the items by this field of their documents, such as subject.",
        metavar="FIELD",
    )
    replace: bool = setting(False, "Replace the scores that the store has from this source.")


@dataclass(frozen=True, kw_only=True)
class CorrelateSettings(_Question):
    """`lpp-analyze correlate`: which profiles, and which scores."""

    metrics: Sequence[str] = setting(
        (
            "entropy_floor",
            "participation_ratio",
            "participation_ratio_norm",
            "effective_rank",
            "effective_rank_norm",
        ),
        "Correlate only these profile columns, such as entropy_floor. Default: the three metrics "
        "of the paper; ranks in dimensions and divided by min(N, d).",
        name="metric",
        metavar="NAME,...",
    )
    benchmarks: Sequence[str] = _patterns(
        "Correlate with these benchmarks", "benchmark", "NAME[:METRIC],..."
    )
    sources: Sequence[str] = _patterns("Use the scores of these sources", "source")
    runs: Sequence[str] = _runs()
    corpora: Sequence[str] = _patterns("Use runs on these corpora", "corpus")
    context: int | None = setting(
        None,
        "Use profiles at this context. Default: the one that most runs have.",
        least=1,
        metavar="N",
    )
    prompts: int | None = setting(
        None,
        "Use profiles of the first N prompts. Default: the number that most runs have.",
        least=1,
        metavar="N",
    )
    site: str = setting("final", "Use profiles at this site.", metavar="NAME")
    untrained: bool = setting(False, "Include untrained twins.")
