"""`lpp-analyze probe`: planted labels, controls, folds, refusals, the tables and the page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from evaluated_items import evaluated_run
from made_runs import MakeRun
from result_frames import check_frames, check_printed

from lpp.analyze import (
    LabelProbeSettings,
    probe,
    probe_depth_chart,
    probe_reliability_chart,
    write_probes,
)
from lpp.analyze.cli.command import main
from lpp.analyze.numerics.statistics.auroc import auroc
from lpp.analyze.pages.terminal import as_text
from lpp.analyze.pages.words import plain, say
from lpp.analyze.probes import examples
from lpp.analyze.probes.inputs import control_rows, site_rows
from lpp.analyze.probes.mistakes import worst_predicted
from lpp.analyze.probes.page import probe_page
from lpp.analyze.probes.page_parts import conclusion
from lpp.analyze.probes.rows import ProbeAnalysis
from lpp.analyze.runs.keys import RunView
from lpp.analyze.tables.database import read_table
from lpp.sql import connect
from lpp.store import open_store, sink
from lpp.store.errors import FormatError, InputError

SITES = ("embed", "block.1", "block.2", "final")
N, D = 200, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose block.2 knows `topic`, `number`, `kind`, and of each token its `mark`; all sites
    but embed know the length, and so `long`; nothing knows `noise`. A document is of one author.
    """
    root = tmp_path_factory.mktemp("probed") / "store"
    rng = np.random.default_rng(3)
    lengths = rng.integers(5, 30, N)
    topic, number = rng.random(N) < 0.5, rng.normal(size=N)
    long = lengths + rng.normal(size=N) > 17
    mark = [rng.random(length) < 0.3 for length in lengths]
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
            "page": k // 2 if k < 40 else None,
            "some": None if k % 2 else k % 4 // 2,
            "few": k if k < 20 else None,
            "name": f"n{k}",
            "many": "rare" if k < 5 else "abc"[k % 3],
            "mark": mark[k].tolist(),
            "loss_mask": (np.arange(lengths[k]) > 2).tolist(),
            "weight": rng.normal(size=lengths[k]).tolist(),
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
            values["block.2"][:, 3] += 3 * (k % 3 == 0)
            values["block.2"][:, 4] += 3 * (k % 3 == 1)
            values["block.2"][:, 5] += 3 * mark[k]
            rows.put(k, values)
    return root


def said(found: ProbeAnalysis) -> str:
    return plain(say(conclusion(found.probes_frame())))


@pytest.mark.slow
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
    assert "a probe at block.2 predicts topic (sport or news) with AUROC" in said(found)
    assert best.mean_difference > 0.95
    assert best.number.value > best.random[1]
    number = probe(store, "number", settings=LabelProbeSettings(rows="mean"))
    assert (number.labels.classes, number.best.name) == (None, "block.2")
    assert number.best.number.value > 0.9
    assert "a probe at block.2 predicts number with R2" in said(number)


@pytest.mark.slow
def test_a_label_that_length_carries_is_named_as_length(store: Path) -> None:
    found = probe(store, "long")
    assert found.best.number.value > 0.85  # a finding, without a control
    assert found.is_explained(found.best)
    sentence = said(found)
    assert "No probe" in sentence


def test_noise_is_no_finding(store: Path) -> None:
    found = probe(store, "noise", settings=LabelProbeSettings(cluster="doc"))
    assert not any(site.tells_more for site in found.sites)
    assert said(found).endswith(" That is not significantly better than chance.")


@pytest.mark.slow
def test_several_classes_have_the_mean_auroc_of_each_against_the_rest(store: Path) -> None:
    found = probe(store, "kind", settings=LabelProbeSettings(sites=["block.2", "final"]))
    labels, best = found.labels, found.best
    assert (labels.classes, best.name, best.tells_more) == (("x", "y", "z"), "block.2", True)
    areas = [
        auroc(best.fitted.scores[:, k], labels.codes == k, labels.target.fold) for k in range(3)
    ]
    assert best.number.value == pytest.approx(np.mean([area.value for area in areas if area]))
    assert best.number.interval is not None
    assert best.number.interval[0] < best.number.value < best.number.interval[1]
    assert "predicts kind (3 classes) with AUROC" in said(found)
    alone = probe(store, "kind=x", settings=LabelProbeSettings(sites=["block.2"])).best
    assert areas[0] is not None
    assert alone.number.value == pytest.approx(areas[0].value, abs=0.02)  # other folds
    rare = probe(store, "many", settings=LabelProbeSettings(sites=["embed"]))
    assert rare.labels.classes == ("a", "b", "c")
    assert dict(rare.labels.left_out) == {"of a class with fewer than 10": 5}
    scores = found.scores_frame().filter(probe="block.2")
    assert scores["class"].value_counts(sort=True)["count"].to_list() == [N] * 3
    assert worst_predicted(found)["score"].is_sorted()


@pytest.mark.slow
def test_classes_that_no_memory_holds_are_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million prompts of 100,000 classes would take 745 GiB."""
    monkeypatch.setattr("lpp.analyze.probes.labels.MOST_CELLS", 3 * N - 1)  # N prompts, 3 classes
    with pytest.raises(InputError, match=r"of 3 classes 3 have 10 prompts.* --label kind=x"):
        probe(store, "kind", settings=LabelProbeSettings(sites=["embed"]))
    assert probe(store, "kind=x", settings=LabelProbeSettings(sites=["embed"])).sites


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["each", "loss_mask"])
def test_labels_of_tokens_are_read_from_their_own_rows(store: Path, rows: str) -> None:
    settings = LabelProbeSettings(rows=rows, sites=["block.2", "final"])
    found = probe(store, "token.mark", settings=settings)
    lengths = open_store(store).run("m").lengths
    skipped = 3 if rows == "loss_mask" else 0
    assert len(found.labels.prompts) == int(lengths.sum()) - skipped * N
    assert [site.name for site in found.sites if site.tells_more] == ["block.2"]
    assert found.best.number.value > 0.97  # d' = 3
    assert (found.labels.errors_by, found.labels.n_clusters) == ("prompt", N)
    folds = pl.DataFrame({"of": found.labels.prompts, "fold": found.labels.target.fold})
    assert folds.group_by("of").agg(pl.col("fold").n_unique())["fold"].max() == 1
    assert found.labels.ends.min() == skipped + 1


def test_a_token_at_a_position_has_its_own_label(store: Path) -> None:
    found = probe(store, "token.mark", settings=LabelProbeSettings(rows="4", sites=["block.2"]))
    marks = open_store(store).run("m").prompts("token.mark")["token.mark"].to_pylist()
    assert found.labels.codes.tolist() == [float(of_prompt[4]) for of_prompt in marks]
    assert found.best.number.value > 0.95


@pytest.mark.slow
def test_more_tokens_than_are_probed_are_drawn(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "MOST", 500)
    found = probe(store, "topic", settings=LabelProbeSettings(rows="each", sites=["block.2"]))
    total = int(open_store(store).run("m").lengths.sum())
    assert dict(found.labels.left_out) == {"tokens that were not drawn": total - 500}
    assert found.best.number.value > 0.95


@pytest.mark.slow
def test_right_items_are_told_from_the_row_before_the_answer(make_run: MakeRun) -> None:
    of = evaluated_run(
        make_run,
        items=120,
        right=lambda made, prompt, answer: made.hidden["final"][prompt][answer][0] > 0,
    )
    found = probe(of.root, "right", settings=LabelProbeSettings(task="tiny_task"))
    assert (found.labels.of, len(found.labels.prompts)) == ("items", 120)
    assert (found.best.name, found.best.tells_more) == ("final", True)
    assert found.best.number.value > 0.9
    chosen = [row["prompt_ids"][row["chosen"]] for row in of.rows]
    assert found.labels.prompts.tolist() == chosen
    assert found.labels.ends.tolist() == [of.context[prompt] for prompt in chosen]
    assert found.probes_frame()["task"].unique().to_list() == ["tiny_task"]


@pytest.mark.slow
def test_calibration_and_recall_by_hand(store: Path) -> None:
    found = probe(store, "topic")
    write_probes(store, found)
    check_frames(found, store)
    check_printed(found, "probes", "probe", "probe_auroc")
    best = found.best
    with connect(store) as connection:
        ((ece, recall, low, high),) = connection.execute(
            "SELECT probe_ece, probe_recall, probe_recall_ci_low, probe_recall_ci_high FROM probes "
            "WHERE label = 'topic' AND probe = 'block.2'"
        ).fetchall()
        bins = connection.execute(
            "SELECT n, confidence, accuracy FROM probe_reliability WHERE probe = 'block.2'"
        ).fetchall()
        scores = connection.execute(
            "SELECT score, target FROM probe_scores WHERE label = 'topic' AND probe = 'block.2' "
            "ORDER BY score"
        ).fetchall()
    logits, right = np.array(scores).T
    parts = np.array_split(np.stack([1 / (1 + np.exp(-logits)), right]), 10, axis=1)
    assert len(bins) == 10
    np.testing.assert_allclose([row[1] for row in bins], [p[0].mean() for p in parts])
    gaps = [abs(p[1].mean() - p[0].mean()) * p.shape[1] / N for p in parts]
    assert ece == pytest.approx(sum(gaps))
    others = np.sort(logits[right == 0])[::-1]
    if len(others) < 100:
        assert recall is None
    else:
        assert recall == pytest.approx((logits[right == 1] > others[len(others) // 100]).mean())
        assert low < recall < high
    assert set(found.calibrations) == {best.name, best.control}
    number = probe(store, "number", settings=LabelProbeSettings(sites=["final"]))
    assert (number.best.recall, dict(number.calibrations)) == (None, {})


@pytest.mark.slow
def test_the_charts_show_bands_of_controls_and_the_bins(store: Path) -> None:
    tables = probe(store, "topic").frames()
    spec = probe_depth_chart(tables["probes"]).to_dict()
    texts = json.dumps(spec)
    assert all(name in texts for name in ("length", "tokens", "embed"))
    marks = [layer["mark"]["type"] for layer in spec["layer"]]
    assert marks[:3] == ["rect", "rule", "text"]  # controls, behind the sites
    bins = tables["probe_reliability"].filter(probe="block.2")
    assert "10 bins, 20 prompts each" in json.dumps(probe_reliability_chart(bins).to_dict())
    numbers = probe(store, "number").frames()
    assert "R2" in json.dumps(probe_depth_chart(numbers["probes"]).to_dict())


@pytest.mark.slow
def test_surprisal_is_a_control_of_runs_with_statistics(make_run: MakeRun) -> None:
    made = make_run([8] * 60, carried={"field.late": [k >= 30 for k in range(60)]})
    found = probe(made.root, "late")  # the surprisal of prompt k is 1.5 + k
    assert found.best.control == "surprisal"
    assert said(found).startswith("Mean surprisal alone predicts late (true or false) with AUROC")


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


@pytest.mark.slow
@pytest.mark.parametrize("option", ["group", "cluster"])
def test_tokens_of_a_prompt_without_the_field_stay_together(store: Path, option: str) -> None:
    settings = LabelProbeSettings(rows="each", sites=["embed"], **{option: "page"})  # type: ignore[arg-type]
    labels = probe(store, "noise", settings=settings).labels
    parts = np.where(labels.prompts < 40, labels.prompts // 2, labels.prompts)
    together = {*zip(parts.tolist(), labels.target.clusters.tolist(), strict=True)}
    assert len(together) == len({part for part, _ in together}) == labels.n_clusters == 180
    folds = pl.DataFrame({"of": parts, "fold": labels.target.fold})
    assert folds.group_by("of").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_what_a_prompt_shares_is_not_read_as_a_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    prompts = [
        {"input_ids": [*range(12)], "odd": k % 2, "doc": "d" if k < 2 else None} for k in range(60)
    ]
    with sink(tmp_path / "s", model="m", sites={"b": 40}, prompts=prompts) as rows:
        for prompt in rows.missing():
            of_prompt = rng.normal(size=40) + 0.3 * rng.normal(size=(12, 40))
            rows.put(prompt.number, {"b": of_prompt.astype(np.float32)})
    settings = LabelProbeSettings(rows="each", cluster="doc")
    found = probe(tmp_path / "s", "odd", settings=settings)
    number = found.best.number
    assert abs(number.value - 0.5) < 2 * number.stderr < 0.25  # .93 where tokens are apart
    flags = found.probes_frame()["flags"][0].to_list()
    assert "duplicates" in flags  # the prompts have equal token ids


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "md", "html", "json", "csv"])
def test_a_number_is_shown_in_every_format(store: Path, form: str) -> None:
    options = ("--label", "number", "--sites", "block.2", "--format", form)
    done = CliRunner().invoke(main, ["probe", str(store), *options])
    assert done.exit_code == 0, done.output
    assert "number" in done.stdout


@pytest.mark.slow
def test_one_large_cluster_is_few(store: Path, tmp_path: Path) -> None:
    prompts = [
        {"input_ids": [k, 1], "odd": k % 2, "doc": "d" if k < 40 else str(k)} for k in range(120)
    ]
    with sink(tmp_path / "s", model="m", sites={"b": 2}, prompts=prompts) as rows:
        for prompt in rows.missing():
            rows.put(prompt.number, {"b": np.full((2, 2), prompt.number % 7, np.float32)})
    found = probe(tmp_path / "s", "odd", settings=LabelProbeSettings(cluster="doc"))
    assert found.labels.n_clusters == 81
    assert "few_clusters" in found.probes_frame()["flags"][0].to_list()


@pytest.mark.parametrize(
    ("label", "options", "words"),
    [
        ("one", {}, "the value 1 alone"),
        ("name", {}, "of 200 classes fewer than two have 10 prompts"),
        ("kind=q", {}, "no prompt has that value; the most frequent are x, y, z"),
        ("tpoic", {}, "did you mean topic"),
        ("rare", {}, "5 of 1 and 195 of 0"),
        ("few", {}, "has 20 prompts with a label"),
        ("topic", {"rows": "40"}, "should be last, mean, a position from 0 to 28, or each or loss"),
        ("topic", {"rows": "weight"}, "its values are numbers, and a mask has true and false"),
        ("token.mrak", {"rows": "each"}, "no such field of tokens; did you mean token.mark"),
        ("token.mark", {"rows": "mean"}, "predicted from its own row. Add --rows each"),
        ("topic", {"task": "t"}, "what items of a task have is --label right"),
        ("right", {"task": "t", "rows": "each"}, "an item has one row"),
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_command(store: Path, tmp_path: Path) -> None:
    def invoke(*options: str) -> Any:
        return CliRunner().invoke(main, ["probe", str(store), *options])

    shown = invoke("m", "--label", "long", "--group", "doc")
    assert shown.exit_code == 0, shown.output
    page = shown.stdout.partition("Next: ")[0]  # which has the path of the store
    assert max(map(len, page.splitlines())) <= 80
    said = " ".join(page.split())
    for words in (
        "The length of prompts alone",
        "errors over 50 clusters by doc",
        "explained",
        "final",
    ):
        assert words in said
    assert re.search(r"q: p-value of the gain, corrected for \d sites", said)
    assert re.search(r"200 prompts \((\d+) of true, \d+ of false\), rows", said)
    document = json.loads(invoke("--label", "topic", "--format", "json").stdout)
    assert [row["probe"] for row in document["tables"]["probes"]] == [*SITES, "length", "tokens"]
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
    page = probe_page(
        str(tmp_path / "s"),
        found.frames() | {"probe_mistakes": worst_predicted(found)},
        found.settings,
        found.view.run,
    )
    said = " ".join(as_text(page).split())
    assert "no interval" in said
    assert "An AUROC of 1 has no interval" in said


@pytest.mark.slow
def test_a_run_that_lacks_shards_says_so(make_run: MakeRun) -> None:
    labels = {"field.late": [k >= 30 for k in range(62)]}
    made = make_run([8] * 62, carried=labels, shards=range(30))  # two prompts each
    done = CliRunner().invoke(main, ["probe", str(made.root), "--label", "late"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "60 prompts (30 of true, 30 of false), rows: last" in said
    assert "it counts as its first 60 of 62 prompts" in done.stderr


def test_a_store_of_two_runs_asks_for_one(make_run: MakeRun) -> None:
    for model in ("a/one", "b/two"):
        made = make_run(model=model, carried={"field.label": ["x", "y"] * 3})
    with pytest.raises(InputError, match="several runs: one; two"):
        probe(made.root, "label")


@pytest.mark.slow
def test_the_same_numbers_whatever_is_asked_beside(store: Path) -> None:
    alone = probe(store, "topic", settings=LabelProbeSettings(sites=["block.2"]))
    beside = probe(store, "topic")
    np.testing.assert_array_equal(alone.best.fitted.scores, beside.best.fitted.scores)
    assert alone.best.gain is not None
    assert beside.best.gain is not None
    assert alone.best.gain.value == beside.best.gain.value
    other = probe(store, "topic", settings=LabelProbeSettings(sites=["block.2"], seed=1))
    assert not np.array_equal(other.labels.target.fold, alone.labels.target.fold)
