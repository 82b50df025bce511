"""`lpp-analyze probe`: planted labels, controls, folds, refusals, the tables and the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from made_runs import MakeRun

from lpp.analyze import LabelProbeSettings, probe, write_probes
from lpp.analyze.cli.command import main
from lpp.analyze.pages.words import plain
from lpp.analyze.probes.inputs import control_rows, site_rows
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.page import conclusion
from lpp.analyze.runs.keys import RunView
from lpp.analyze.tables.database import read_table
from lpp.sql import connect
from lpp.store import open_store, sink
from lpp.store.errors import FormatError, InputError

SITES = ("embed", "block.1", "block.2", "final")
N, D = 200, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose block.2 knows `topic` and `number`; all sites but embed know the length, and so
    `long`; nothing knows `noise`. A document is of one author.
    """
    root = tmp_path_factory.mktemp("probed") / "store"
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 30, N)
    topic, number = rng.random(N) < 0.5, rng.normal(size=N)
    long = lengths + rng.normal(size=N) > 17
    prompts: list[dict[str, Any]] = [
        {
            "input_ids": rng.integers(0, 40, lengths[k]).tolist(),
            "topic": "news" if topic[k] else "sport",
            "number": float(number[k]),
            "long": bool(long[k]),
            "noise": int(rng.integers(2)),
            "doc": k // 4,
            "author": f"a{k // 8}",
            "kind": "xyz"[k % 3],
            "one": 1,
            "rare": int(k < 5),
            "some": None if k % 2 else k % 4 // 2,
            "few": k if k < 20 else None,
        }
        for k in range(N)
    ]
    with sink(root, model="tiny/m", sites=dict.fromkeys(SITES, D), prompts=prompts) as rows:
        for prompt in rows.missing():
            k, length = prompt.number, len(prompt.token_ids)
            values = {site: rng.normal(size=(length, D)).astype(np.float32) for site in SITES}
            for site in SITES[1:]:
                values[site][:, 1] += length / 4
            values["block.2"][:, 0] += 3 * topic[k]
            values["block.2"][:, 2] += 3 * number[k]
            rows.put(k, values)
    return root


def test_a_planted_direction_is_found_at_its_site(store: Path) -> None:
    found = probe(store, "topic")
    best = found.best
    assert best.name == "block.2"
    assert best.tells_more
    # scores of d' = 3 reach 0.983 at best
    assert best.number.interval is not None
    assert best.number.interval[0] < 0.983 < best.number.interval[1] + 0.01
    assert [site.name for site in found.sites if site.tells_more] == ["block.2"]
    assert [control.name for control in found.all_controls] == ["length", "tokens", "embed"]
    assert plain(conclusion(found)).startswith(f"block.2 of {found.view.run.id} tells topic sport")
    assert best.mean_difference > 0.95
    assert best.number.value > best.random[1]
    number = probe(store, "number", settings=LabelProbeSettings(rows="mean"))
    assert (number.labels.classes, number.best.name) == (None, "block.2")
    assert number.best.number.value > 0.9
    assert "predicts number best (R2" in plain(conclusion(number))


def test_a_label_that_length_carries_is_named_as_length(store: Path) -> None:
    found = probe(store, "long")
    assert found.best.number.value > 0.85  # a finding, without a control
    assert found.is_explained(found.best)
    sentence = plain(conclusion(found))
    assert sentence.startswith("The length of prompts alone tells long true from false (AUROC")
    assert "no site" in sentence


def test_noise_is_no_finding(store: Path) -> None:
    found = probe(store, "noise", settings=LabelProbeSettings(cluster="doc"))
    assert not any(site.tells_more for site in found.sites)
    assert "No site" in plain(conclusion(found))


def test_surprisal_is_a_control_of_runs_with_statistics(make_run: MakeRun) -> None:
    made = make_run([8] * 60, carried={"field.late": [k >= 30 for k in range(60)]})
    found = probe(made.root, "late")  # the surprisal of prompt k is 1.5 + k
    assert found.best.control == "surprisal"
    assert plain(conclusion(found)).startswith("Mean surprisal alone tells late true from false")


@pytest.mark.parametrize(
    ("group", "cluster", "whole"),
    [("doc", None, "doc"), (None, "doc", "doc"), ("author", "doc", "author")],
)
def test_no_fold_divides_a_group(
    store: Path, group: str | None, cluster: str | None, whole: str
) -> None:
    settings = LabelProbeSettings(group=group, cluster=cluster, sites=["embed"], folds=4)
    found = probe(store, "topic", settings=settings)
    values = found.view.run.prompts(f"field.{whole}")[f"field.{whole}"].to_pylist()
    folds = pl.DataFrame({"of": values, "fold": found.labels.target.fold})
    assert folds.group_by("of").agg(pl.col("fold").n_unique())["fold"].max() == 1
    assert folds["fold"].n_unique() == 4
    assert found.labels.n_clusters == 50  # docs, which are clusters where they are named


@pytest.mark.parametrize(
    ("label", "options", "words"),
    [
        ("one", {}, "the value 1 alone"),
        ("kind", {}, "3 classes. .* such as --label kind=x"),
        ("kind=q", {}, "no prompt has that value; the most frequent are x, y, z"),
        ("tpoic", {}, "did you mean topic"),
        ("rare", {}, "5 of 1 and 195 others"),
        ("few", {}, "has 20 prompts with a label"),
        ("topic", {"rows": "40"}, "--rows 40: it should be last, mean, or a position from 0 to 28"),
        ("topic", {"rows": "-1"}, "--rows -1"),
        ("topic", {"skip_first": 2}, "--skip-first 2: .* Add --rows mean"),
        ("topic", {"rows": "28"}, "prompts with a label and a row"),
        ("topic", {"cluster": "topic"}, "values of topic keep all prompts in 2 parts; 5 folds"),
        ("topic", {"group": "grop"}, "--group grop: .* no such field"),
        ("topic", {"sites": ["block.9"]}, "no site 'block.9'"),
    ],
)
def test_what_cannot_be_probed_is_refused_with_a_reason(
    store: Path, label: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        probe(store, label, settings=LabelProbeSettings(**options))


def test_prompts_without_a_label_are_left_out(store: Path) -> None:
    found = probe(store, "some", settings=LabelProbeSettings(rows="9", sites=["final"]))
    lengths = open_store(store).run("m").lengths
    short = int((lengths[::2] <= 9).sum())
    assert dict(found.labels.left_out) == {"no label": 100, "too short for the row": short}
    assert len(found.labels.prompts) == 100 - short
    value = probe(store, "kind=x", settings=LabelProbeSettings(sites=["final"]))
    assert value.labels.classes == ("other", "x")
    assert int(value.labels.target.labels.sum()) == 67


def test_rows_and_controls_by_hand(make_run: MakeRun) -> None:
    made = make_run()
    view, prompts = RunView(open_store(made.root).runs[made.run_id]), np.array([0, 2, 5])
    hidden = [made.hidden["block.1"][k] for k in prompts]
    for which, rows in {
        "last": [part[-1] for part in hidden],
        3: [part[3] for part in hidden],
        "mean": [part[2:].mean(axis=0) for part in hidden],
    }.items():
        ours = site_rows(view, "block.1", prompts, which, 2)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, rows, rtol=1e-5)
    controls = control_rows(view, prompts, 3)
    lengths = [len(part) for part in hidden]
    np.testing.assert_array_equal(controls["length"][:, 0], lengths)
    np.testing.assert_allclose(controls["surprisal"][:, 0], 1.5 + prompts)
    ids = [made.prompts[k][:4] for k in prompts]
    shared = {t for part in ids for t in part if sum(t in other for other in ids) > 1}
    counts = sorted([part.count(t) for part in ids] for t in shared)
    assert sorted(controls.get("tokens", np.empty((3, 0))).T.tolist()) == counts


def test_a_site_without_a_row_is_damage(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = RunView(open_store(store).run("m"))
    blocks: Any = view.run.blocks
    lost = np.array([7], np.int32)
    monkeypatch.setattr(
        type(view.run), "blocks", lambda _, *a, **o: (b.without(lost) for b in blocks(*a, **o))
    )
    with pytest.raises(FormatError, match="lacks rows of prompt 7"):
        site_rows(view, "final", np.arange(N), "last", 0)


def test_tables_of_the_database(store: Path) -> None:
    found = probe(store, "topic")
    for _ in range(2):  # the second replaces the first
        write_probes(store, found)
    write_probes(store, probe(store, "long", settings=LabelProbeSettings(sites=["final"])))
    rows = read_table(store, "probes").filter(label="topic")
    assert rows.filter(role="site")["probe"].to_list() == list(SITES)
    assert rows.filter(role="control")["probe"].to_list() == ["length", "tokens"]
    (best,) = rows.filter(probe="block.2").to_dicts()
    assert best["probe_auroc"] == found.best.number.value
    assert best["probe_auroc_ci_low"] < best["probe_auroc"] < best["probe_auroc_ci_high"]
    assert (best["control"], best["flags"]) == (found.best.control, ["independent_prompts"])
    with connect(store) as connection:
        ((wrong,),) = connection.execute(
            "SELECT count(*) FROM probe_scores WHERE label = 'topic' AND probe = 'block.2' "
            "AND (score > 0) != (target = 1)"
        ).fetchall()
    labels = found.labels.target.labels
    assert wrong == int(((found.best.fitted.scores > 0) != labels).sum())
    mistakes = worst_predicted(found)
    assert len(mistakes) == min(wrong, 10)
    assert mistakes["score"].abs().is_sorted(descending=True)


def test_the_command(store: Path, tmp_path: Path) -> None:
    def invoke(*options: str) -> Any:
        return CliRunner().invoke(main, ["probe", str(store), *options])

    shown = invoke("m", "--label", "long", "--group", "doc")
    assert shown.exit_code == 0, shown.output
    page = shown.stdout.partition("Next: ")[0]  # which has the path of the store
    assert max(map(len, page.splitlines())) <= 80
    for words in ("The length of prompts alone", "errors by doc (50)", "explained", "final"):
        assert words in shown.stdout
    document = json.loads(invoke("--label", "topic", "--format", "json").stdout)
    assert [row["probe"] for row in document] == [*SITES, "length", "tokens"]
    assert invoke("--label", "topic", "-o", str(tmp_path / "p.csv")).exit_code == 0
    assert pl.read_csv(tmp_path / "p.csv")["n_prompts"].unique().to_list() == [N]
    assert invoke().exit_code == 2
    assert invoke("--label", "one").exit_code == 2


def test_a_site_may_have_the_name_of_a_control(tmp_path: Path) -> None:
    prompts = [{"input_ids": [1] * (1 + k % 3), "odd": k % 2} for k in range(60)]
    with sink(tmp_path / "s", model="m", sites={"length": 2, "b": 2}, prompts=prompts) as rows:
        for prompt in rows.missing():
            values = np.full((len(prompt.token_ids), 2), prompt.number % 2, np.float32)
            rows.put(prompt.number, {"length": values, "b": values})
    found = probe(tmp_path / "s", "odd")
    names = ["length", "b", "length (control)", "tokens"]
    assert [result.name for result in found.results] == names
    assert found.best.number.value == 1
    assert found.best.number.interval is None  # perfectly ordered


def test_a_run_that_lacks_shards_says_so(make_run: MakeRun) -> None:
    labels = {"field.late": [k >= 30 for k in range(62)]}
    made = make_run([8] * 62, carried=labels, shards=range(30))  # two prompts each
    done = CliRunner().invoke(main, ["probe", str(made.root), "--label", "late"])
    assert done.exit_code == 0, done.output
    assert "60 prompts, rows: last" in done.stdout
    assert "it counts as its first 60 of 62 prompts" in done.stderr


def test_a_store_of_two_runs_asks_for_one(make_run: MakeRun) -> None:
    for model in ("a/one", "b/two"):
        made = make_run(model=model, carried={"field.label": ["x", "y"] * 3})
    with pytest.raises(InputError, match="several runs: one; two"):
        probe(made.root, "label")


def test_the_same_numbers_whatever_is_asked_beside(store: Path) -> None:
    alone = probe(store, "topic", settings=LabelProbeSettings(sites=["block.2"]))
    beside = probe(store, "topic")
    np.testing.assert_array_equal(alone.best.fitted.scores, beside.best.fitted.scores)
    assert alone.best.gain is not None
    assert beside.best.gain is not None
    assert alone.best.gain.value == beside.best.gain.value
    other = probe(store, "topic", settings=LabelProbeSettings(sites=["block.2"], seed=1))
    assert not np.array_equal(other.labels.target.fold, alone.labels.target.fold)
