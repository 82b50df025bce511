"""The probe of one run, A, on the rows of another one, B: does it still serve there?

A's probe is compared with a reference, on the same prompts:

- `--against`: on prompts that both runs read. The reference is the same probe on the rows of A.
  Labels and folds are A's, and each prompt is scored by the probe that did not see its fold.
- `--test-on`: on B's prompts, with labels of their own. The reference is B's own probe, out of
  fold. The probe of all prompts of A scores them; so prompts that both runs hold, with the same
  token ids or from the same row of the same corpus, are refused, or left out. Or they alone are
  tested, where they are the purpose (another site, another label), by probes of other folds.

Changes and verdicts are those of `numerics.probe_change`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from lpp.analyze.drift.pair import Lost, rerun_of, run_of
from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.probe_change import (
    ALL,
    ProbeChange,
    carried_scores,
    change_verdict,
    probe_change,
    threshold_of,
)
from lpp.analyze.numerics.probe_errors import Target
from lpp.analyze.numerics.statistics.auroc import Codes, auroc
from lpp.analyze.numerics.statistics.clusters import recoded
from lpp.analyze.probes.analysis import labelled, nothing_compared, probed_run
from lpp.analyze.probes.inputs import site_rows
from lpp.analyze.probes.labels import Labels
from lpp.analyze.probes.rows import ProbeComparison, SiteTest, Tested
from lpp.analyze.questions import LabelProbeSettings, ProbeTestSettings
from lpp.analyze.runs.keys import RunView, Url
from lpp.analyze.runs.select import matching
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress
from lpp.store.units import counted


def probe_against(
    store: Url,
    label: str,
    runs: tuple[str | None, str],
    settings: LabelProbeSettings | None = None,
    tests: ProbeTestSettings | None = None,
    *,
    own_labels: bool = False,
    progress: Progress = SILENT,
) -> ProbeComparison:
    """Whether the probe of `label` from run A serves on the rows of run B.

    runs: A, None for the only run of `store`, and B, which may be STORE::RUN. own_labels: False:
    on the prompts of A that B holds (`--against`); True: on B's prompts, with their labels
    (`--test-on`). Sites are those of one name in both, or `tests.site_pairs`. progress: advances by
    one for each site.

    Memory: as `probe`, with the rows of two or three runs. Raises what `probe` raises, of either
    run. InputError also for a label that has not two classes, or other ones in B; for sites of
    different widths; for runs without a prompt in common, or with some that `tests.shared_prompts`
    refuses.
    """
    settings, tests = settings or LabelProbeSettings(), tests or ProbeTestSettings()
    view, view_b = probed_run(store, runs[0]), run_of(store, runs[1])
    pairing = _paired_sites(view, view_b, settings, tests)
    which, labels = labelled(view, [*pairing], label, settings)
    _require_prompts(labels)
    target, threshold = labels.target, threshold_of(labels.target.labels)
    if own_labels:
        tested, n_shared = _with_own_labels(view, view_b, labels, settings, tests)
    else:
        tested = _of_both(view, view_b, labels)
        n_shared = len(tested.prompts)
    parts = [(tested, pairing)]
    if tests.rerun is not None:
        again = rerun_of(store, tests.rerun, view.run)
        parts.append((_of_both(view, again, labels), {site: site for site in pairing}))
    for part, names in parts:
        for site in names.values():
            part.view.run.require_rows(site, "float32")

    def read(site: str) -> Iterator[Rows]:
        of_each = [(view, site, labels.prompts, labels.ends)]
        of_each += [(part.view, names[site], part.prompts, part.ends) for part, names in parts]
        for of, name, prompts, ends in of_each:
            yield site_rows(of, name, prompts, which, settings.skip_first, ends=ends)

    def result(site: str, rows: Rows, *rows_of_parts: Rows) -> SiteTest:
        fitted = target.scored(rows)
        number, changes, scores = target.number(fitted), [], np.empty(0)
        for (part, _), part_rows in zip(parts, rows_of_parts, strict=True):
            on = [(part_rows, part.fold)] + ([] if part.own else [(rows[part.place], part.fold)])
            of = rows, target.labels, target.fold, fitted.strengths
            carried = [s - threshold for s in carried_scores(*of, on)]
            changes.append(_change(part, part_rows, carried))
            scores = scores if scores.size else carried[0]
        theirs = tested.target
        on_b = auroc(scores, theirs.labels > 0, theirs.fold, theirs.clusters)
        if number is None or on_b is None or (change := changes[0]) is None:
            raise nothing_compared(labels)
        rerun = changes[1] if len(changes) > 1 else None
        return SiteTest(
            site=site,
            site_b=pairing[site],
            number=number,
            tested=on_b,
            change=change,
            rerun=rerun,
            verdict=change_verdict(change, tests.margin, rerun),
        )

    cores, jobs = usable_cores(), list[Future[SiteTest]]()
    progress.expect(len(pairing))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores, "lpp-probe") as pool:
        for site in pairing:
            if len(jobs) > cores:  # rows that wait to be fitted are memory
                jobs[-cores - 1].result()
            jobs.append(pool.submit(result, site, *read(site)))
            progress.advance()
            progress.note(site)
        sites = tuple(job.result() for job in jobs)
    n_base = 0 if own_labels else len(labels.prompts)
    return ProbeComparison(
        view=view,
        labels=labels,
        tested=tested,
        lost=Lost(n_base=n_base, n_missing=max(n_base - len(np.unique(tested.place)), 0)),
        n_shared=n_shared,
        settings=settings,
        tests=tests,
        sites=sites,
    )


def _change(part: Tested, rows: Rows, carried: list[Floats]) -> ProbeChange | None:
    """The change to the scores `carried[0]` of (m, d) rows of `part` from those of the reference:
    `carried[1]`, or of the run's own probe.
    """
    target = part.target
    reference = target.scored(rows).scores - threshold_of(target.labels) if part.own else carried[1]
    return probe_change(reference, carried[0], target.labels, target.fold, target.clusters)


def _of_both(view: RunView, other: RunView, labels: Labels) -> Tested:
    """The labelled prompts of A that `other` holds, which are tested out of fold."""
    prompts = np.flatnonzero(other.lengths)
    place = _places(view, other, labels.prompts, prompts, by_row=False)
    if not (place >= 0).any():
        raise InputError(
            f"no labelled prompt of {view.run.id} is in {other.run.id}, so there is nothing to "
            "compare. Capture its model on the same corpus, with the same --context; or test on "
            "its own labels: --test-on."
        )
    prompts, place = prompts[place >= 0], place[place >= 0]
    ours = labels.target
    fold = ours.fold[place]
    target = _target(ours.labels[place], fold, ours.clusters[place], ours.seed)
    return Tested(
        view=other,
        prompts=prompts,
        ends=labels.ends[place],
        place=place,
        fold=fold,
        target=target,
        own=False,
    )


def _with_own_labels(
    view: RunView,
    other: RunView,
    labels: Labels,
    settings: LabelProbeSettings,
    tests: ProbeTestSettings,
) -> tuple[Tested, int]:
    """The prompts of `other` that have labels of their own, as far as they are tested, and the
    number of those that A holds too.
    """
    _, theirs = labelled(other, [], tests.test_label or labels.name, settings)
    _require_prompts(theirs)
    if labels.classes != theirs.classes and not ("=" in labels.name and "=" in theirs.name):
        raise InputError(
            f"the classes are {labels.classes} in {view.run.id} and {theirs.classes} in "
            f"{other.run.id}. Say which one is predicted: --label FIELD=VALUE --test-label "
            "FIELD=VALUE."
        )
    place = _places(view, other, labels.prompts, theirs.prompts, by_row=True)
    both, only = place >= 0, tests.shared_prompts == "only"
    n_shared = int(both.sum())
    if tests.shared_prompts == "refuse" and n_shared:
        raise InputError(
            f"--test-on: {counted(n_shared, 'labelled prompt')} of {len(both)} are in both runs, "
            "so the probe was fitted to them. Test on the others: --shared-prompts leave-out. Or, "
            "for another site or label of the same prompts, test out of fold: --shared-prompts "
            "only."
        )
    kept = both if only else ~both
    target = theirs.target
    if len(np.unique(target.labels[kept])) < 2:
        raise InputError(
            f"--shared-prompts {tests.shared_prompts}: {counted(int(kept.sum()), 'prompt')} of "
            f"{other.run.id} are left, not of both classes. Test on another run.",
            kind=ErrorKind.INCOMPLETE,
        )
    # B's own probe may not see more of a prompt of both runs than A's
    fold = labels.target.fold[place[kept]] if only else target.fold[kept]
    tested = Tested(
        view=other,
        prompts=theirs.prompts[kept],
        ends=theirs.ends[kept],
        place=place[kept],
        fold=fold if only else np.full(len(fold), ALL),
        target=_target(target.labels[kept], fold, target.clusters[kept], target.seed),
        own=True,
    )
    return tested, n_shared


def _target(labels: Floats, fold: Codes, clusters: Codes, seed: int) -> Target:
    return Target(labels=labels, fold=fold, clusters=recoded(clusters), classes=True, seed=seed)


def _places(a: RunView, b: RunView, prompts: Codes, prompts_b: Codes, *, by_row: bool) -> Codes:
    """(m,) place among `prompts` of A of each of `prompts_b` of B: the prompt with the same token
    ids, of several the one that comes as far down in A as it does in B; if `by_row`, else any of
    them, or one of the same row of the same corpus; -1 where there is none.
    """
    corpora = [(v.run.plan.corpus.fingerprint, v.run.plan.corpus.selection) for v in (a, b)]
    same = corpora[0][0] == corpora[1][0] and corpora[0][1].get("text") == corpora[1][1].get("text")
    ids = [v.prompts["sha256"].to_list() for v in (a, b)]
    keys: list[Sequence[Sequence[object]]] = [[copies(of_run) for of_run in ids]]
    if by_row:
        keys += [ids, *([[v.prompts["source_row"].to_list() for v in (a, b)]] if same else [])]
    place = np.full(len(prompts_b), -1)
    for ours, theirs in keys:
        known = {ours[prompt]: k for k, prompt in enumerate(prompts.tolist())}
        like = np.array([known.get(theirs[prompt], -1) for prompt in prompts_b.tolist()], np.int64)
        place = np.where(place >= 0, place, like)
    return place


def copies(digests: Sequence[str]) -> list[tuple[str, int]]:
    """Each with the number of equal ones before it.

    >>> copies(["a", "b", "a"])
    [('a', 0), ('b', 0), ('a', 1)]
    """
    seen = Counter[str]()
    numbered = []
    for digest in digests:
        numbered.append((digest, seen[digest]))
        seen[digest] += 1
    return numbered


def _require_prompts(labels: Labels) -> None:
    """Raise InputError for labels that have not two classes, or are not of whole prompts."""
    require_two_classes(labels)
    if labels.of == "tokens":
        raise InputError(
            f"--label {labels.name}: a probe is tested on another run with labels of prompts or "
            "items, not of tokens. Name a field of the prompts."
        )


def require_two_classes(labels: Labels) -> None:
    """Raise InputError for a number, or for several classes."""
    if not labels.two_classes:
        raise InputError(
            f"--label {labels.name}: a probe is tested on another run with two classes. Name one "
            f"against all others: --label {labels.name}=VALUE."
        )


def _paired_sites(
    a: RunView, b: RunView, settings: LabelProbeSettings, tests: ProbeTestSettings
) -> Mapping[str, str]:
    """The site of B whose rows the probe of a site of A reads, in the order of A's sites."""
    names = a.run.activation_sites, b.run.activation_sites
    pairing = dict(tests.site_pairs)
    for of_run, given in zip(names, (pairing, pairing.values()), strict=True):
        matching("site", [*given], of_run, option="--site-pair")
    if not pairing:
        both = [site for site in names[0] if site in names[1]]
        pairing = {site: site for site in matching("site", settings.sites, both, option="--sites")}
    for site, other in pairing.items():
        widths = a.run.site(site).width, b.run.site(other).width
        if widths[0] != widths[1]:
            raise InputError(
                f"{site} of {a.run.id} has {widths[0]} columns, and {other} of {b.run.id} has "
                f"{widths[1]}: no probe reads both. Pair sites of one width: --site-pair "
                "SITE=SITE_B."
            )
    return {site: pairing[site] for site in names[0] if site in pairing}
