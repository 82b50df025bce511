"""Who takes part in a correlation: one profile per run, all at one setting.

Profiles at another context, another number of prompts or another site are other quantities, so
one setting is chosen and whoever lacks it is left out, by name and with the reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import polars as pl

from lpp.analyze.runs.select import matching
from lpp.analyze.scores.matching import RunName
from lpp.analyze.scores.published import CONTEXT, N_PROMPTS, SITE, SOURCE, published_rows
from lpp.store.errors import ErrorKind, InputError

PUBLISHED_SET: Final = "published"
"""Stands for the texts that the published profiles were made on."""

_NONE: Final = "no prompt can be analysed; `lpp-analyze profile` says why"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A profile as a point of a correlation."""

    id: str
    """Run; `published:<model>` for a published profile."""
    model: str
    untrained: bool
    n_parameters: float
    prompt_set: str
    values: Mapping[str, float | None]
    """By column of the profile."""
    context: int
    n_prompts: int
    flagged: bool
    """Whether the profile carries a flag of its own."""
    evaluation: bool = False
    """Whether an evaluation made the run."""
    weights: str = ""
    """Fingerprint of the model's weights."""

    @property
    def published(self) -> bool:
        """Whether it is of the published reference."""
        return self.id.startswith(f"{SOURCE}:")

    @property
    def name(self) -> RunName:
        """What a source's name is matched with."""
        return RunName(
            id=self.id,
            model=self.model,
            untrained=self.untrained,
            evaluation=self.evaluation,
            weights=self.weights,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where profiles are compared."""

    site: str = "final"
    context: int | None = None
    """None: what most runs have, of several the longest."""
    n_prompts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The subjects, the setting they share, and who is not among them."""

    subjects: Sequence[Subject]
    site: str
    context: int
    n_prompts: int
    left_out: Sequence[str]
    """`who: why`"""


def choose_subjects(
    profiles: pl.DataFrame,
    runs: pl.DataFrame,
    setting: Setting,
    metrics: Sequence[str],
    *,
    patterns: Sequence[str] = ("*",),
    corpora: Sequence[str] = ("*",),
    untrained: bool = False,
    published: bool = False,
) -> Cast:
    """The selected runs of `profiles` that have `setting`, and the published models if asked.

    profiles: the table `site_profiles`, with the columns `metrics`. runs: the table `runs`, and
    whether each is an `evaluation`, with the fingerprint of its `weights`.
    Raises InputError where no run has the setting, or a pattern fits no run.
    """
    left_out: list[str] = []
    chosen = []
    _check_patterns(patterns, runs["run"].to_list())
    read = matching("corpus", corpora, runs["corpus"].unique(maintain_order=True).to_list())
    for run in runs.iter_rows(named=True):
        if not any(fnmatchcase(run["run"], pattern) for pattern in patterns):
            left_out.append(f"{run['run']}: not among the runs asked for")
        elif run["corpus"] not in read:
            left_out.append(f"{run['run']}: captured on {run['corpus']}, not asked for")
        elif run["untrained_seed"] is not None and not untrained:
            left_out.append(f"{run['run']}: an untrained twin (--untrained includes it)")
        else:
            chosen.append(run)
    here = profiles.filter(
        pl.col("run").is_in([run["run"] for run in chosen]), pl.col("site") == setting.site
    )
    context, n_prompts = _common(here, setting, published=published)
    at = here.filter(context=context, n_prompts=n_prompts).rows_by_key("run", named=True)
    subjects = []
    for run in chosen:
        if run["run"] in at:
            subjects.append(_subject(run, at[run["run"]][0], metrics))
        else:
            where = f"context {context}, {n_prompts} prompts, {setting.site}"
            why = f"no profile at {where}" if run["n_prompts"] != 0 else _NONE
            left_out.append(f"{run['run']}: {why}")
    if published:
        own = {subject.model: subject.id for subject in subjects if not subject.untrained}
        for subject in _published(metrics):
            if why := _why_not_published(subject, own, setting):
                left_out.append(f"{subject.id}: {why}")
            else:
                subjects.append(subject)
    return Cast(
        subjects=subjects,
        site=setting.site,
        context=context,
        n_prompts=n_prompts,
        left_out=left_out,
    )


def _why_not_published(subject: Subject, own: Mapping[str, str], setting: Setting) -> str:
    """Why a published model takes no part; empty where it does. own: model -> run."""
    if setting.site != SITE:
        return f"published at {SITE} only, not {setting.site}"
    return f"{own[subject.model]} is of the same model" if subject.model in own else ""


def _check_patterns(patterns: Sequence[str], runs: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(run, pattern) for run in runs):
            raise InputError(
                f"no run {pattern!r} is profiled; there is {', '.join(runs) or 'none'}. "
                "Name others with --run.",
                kind=ErrorKind.NOT_FOUND,
            )


def _common(here: pl.DataFrame, setting: Setting, *, published: bool) -> tuple[int, int]:
    """(context, prompts) that most runs have; of equals, the longest, then the most prompts."""
    counts = Counter(
        (row["context"], row["n_prompts"])
        for row in here.iter_rows(named=True)
        if setting.context in (None, row["context"])
        and setting.n_prompts in (None, row["n_prompts"])
    )
    if counts:
        context, n_prompts = max(counts, key=lambda pair: (counts[pair], pair))
        return int(context), int(n_prompts)
    if published and setting == Setting():
        return CONTEXT, N_PROMPTS
    held = here.select("context", "n_prompts").unique().sort("context", "n_prompts").rows()
    listed = ", ".join(f"context {c} with {n} prompts" for c, n in held)
    raise InputError(
        f"no profile at {setting.site} with the context and prompts asked for; there is "
        f"{listed or 'none'}. Compute others: lpp-analyze profile STORE --context ... --site ...",
        kind=ErrorKind.NOT_FOUND,
    )


def _subject(
    run: Mapping[str, object], profile: Mapping[str, object], metrics: Sequence[str]
) -> Subject:
    return Subject(
        id=str(run["run"]),
        model=str(run["model"]),
        untrained=run["untrained_seed"] is not None,
        n_parameters=float(run["n_parameters"]),  # type: ignore[arg-type]
        prompt_set=str(run["prompt_set"]),
        values={name: profile[name] for name in metrics},  # type: ignore[misc]
        context=profile["context"],  # type: ignore[arg-type]
        n_prompts=profile["n_prompts"],  # type: ignore[arg-type]
        flagged=bool(profile["flags"]),
        evaluation=bool(run["evaluation"]),
        weights=str(run["weights"]),
    )


def _published(metrics: Sequence[str]) -> list[Subject]:
    """Published profiles; they have no numbers in dimensions."""
    return [
        Subject(
            id=f"{SOURCE}:{row['model']}",
            model=row["model"],
            untrained=False,
            n_parameters=row["nominal_size_b"] * 1e9,
            prompt_set=PUBLISHED_SET,
            values={name: row.get(name) for name in metrics},
            context=CONTEXT,
            n_prompts=N_PROMPTS,
            flagged=bool(row["flags"]),
        )
        for row in published_rows()
    ]
