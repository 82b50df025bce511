"""A store at an address: read over HTTP, in as few bytes as it takes, whatever the server does."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from kept_heads import keep_head
from served_folder import ServedFolder, served_folder
from small_capture import Capture, make_capture, make_plan
from torch.utils.data import DataLoader

from lpp.store import Run, create_store, open_store, write_index
from lpp.store.errors import ErrorKind, FormatError, InputError, LppError, MachineError
from lpp.store.feed import prompts, rows
from lpp.store.format.commit_record import checksum
from lpp.store.format.documents import canonical_json
from lpp.store.objects.address_objects import AddressObjects
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import BucketPath, place

SITES = ("embed", *(f"block.{k}" for k in range(1, 31)), "final")
WIDTH = 64
A, B = "a", "b"


def capture_of(model: str, seed: int) -> Capture:
    """Twelve prompts of 150 tokens in two shards, 32 sites of normal values."""
    rng = np.random.default_rng(seed)
    values = {site: rng.standard_normal((1800, WIDTH), np.float32) for site in SITES}
    info = replace(
        make_plan().model, id=f"lab/{model}", weights=model, n_blocks=30, hidden_size=WIDTH
    )
    return make_capture(
        (150,) * 12,
        (0, 6, 12),
        {site: (rows.view(np.uint32) >> 16).astype(np.uint16) for site, rows in values.items()},
        model=info,
        prefixes=(75, 150),
    )


def analyze(*words: object) -> Result:
    from lpp.analyze.cli.command import main

    return CliRunner().invoke(main, [*map(str, words)])


def ask(*words: object) -> Result:
    from lpp.sql.cli.command import main

    return CliRunner().invoke(main, [*map(str, words)])


def numbers(done: Result) -> str:
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store `lpp`: two runs of 32 sites with heads, indexed."""
    folder = tmp_path_factory.mktemp("large")
    for seed, model in enumerate((A, B)):
        capture = capture_of(model, seed)
        capture.write(folder / "lpp")
        keep_head(folder / "lpp", capture.plan, seed)
    assert analyze("index", folder / "lpp").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def sizes(large: Path) -> dict[str, int]:
    """Bytes of each file of that store, before a command keeps numbers in it."""
    root = large / "lpp"
    return {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def served(large: Path, sizes: dict[str, int]) -> Iterator[ServedFolder]:
    with served_folder(large) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path, capture: Capture) -> Iterator[ServedFolder]:
    """A store of one small run, which a test may change."""
    capture.write(tmp_path / "lpp")
    write_index(tmp_path / "lpp")
    with served_folder(tmp_path) as server:
        yield server


def read(url: str) -> list[Any]:
    """Rows of a site, tokens and prompts of each run."""
    return [
        (
            np.concatenate(list(run.hidden("block.1"))).tolist(),
            run.tokens().to_table().to_pylist(),
            run.prompts().to_pylist(),
        )
        for run in open_store(url).runs.values()
    ]


def only_run(url: str) -> Run:
    (run,) = open_store(url).runs.values()
    return run


# bytes


@pytest.mark.slow
def test_a_profile_of_one_site_takes_a_twentieth_of_the_store(
    served: ServedFolder, sizes: dict[str, int]
) -> None:
    words = ("--sites", "block.3", A, "--format", "csv")
    done = analyze("profile", served.url, *words)
    assert numbers(done) == numbers(analyze("profile", served.folder / "lpp", *words))
    store = sum(size for key, size in sizes.items() if not key.startswith("runs/b-"))
    assert served.sent / store <= 0.05
    assert "read only" in done.stderr


@pytest.mark.slow
def test_a_comparison_of_predictions_takes_its_own_bytes(
    served: ServedFolder, sizes: dict[str, int]
) -> None:
    words = (A, B, "--sites", "final", "--format", "json")
    over_http = json.loads(numbers(analyze("diff", served.url, *words)))
    on_disk = json.loads(numbers(analyze("diff", served.folder / "lpp", *words)))
    assert any("kl" in json.dumps(table) for table in over_http.values())
    assert json.dumps(over_http).replace(served.url, "") == json.dumps(on_disk).replace(
        str(served.folder / "lpp"), ""
    )
    needed = sum(n for key, n in sizes.items() if "hidden" not in key or "/final/" in key)
    assert served.sent / needed <= 1.1


@pytest.mark.parametrize("feed", [rows, prompts])
def test_a_feed_reads_its_site_once(served: ServedFolder, sizes: dict[str, int], feed: Any) -> None:
    url, disk = served.url, served.folder / "lpp"
    batches = [
        list(feed(open_store(root).run(A), "block.7", seed=3, like="numpy")) for root in (url, disk)
    ]
    assert str(batches[0]) == str(batches[1])
    site = sum(n for key, n in sizes.items() if key.startswith("runs/a-") and "block.7/" in key)
    assert sum(n for key, _, n in served.seen if "hidden" in key) <= 1.02 * site
    assert served.sent < 2 * site


@pytest.mark.slow
def test_a_forked_worker_is_told_how_to_start(small: ServedFolder) -> None:
    feed: Any = rows(only_run(small.url), "block.1")
    loader = DataLoader(
        feed, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    with pytest.raises(InputError, match="multiprocessing_context='spawn'"):
        list(loader)


@pytest.mark.slow
def test_sql_of_tables_and_tokens(small: ServedFolder) -> None:
    missing = ask(small.url, "--run", "profiles")
    assert missing.exit_code == 2
    assert "lpp-analyze index STORE" in missing.stderr
    disk = small.folder / "lpp"
    numbers(analyze("profile", disk))
    write_index(disk)
    with served_folder(small.folder) as again:  # another address: a process reads an index once
        for sql in ("FROM site_profiles", "SELECT count(*), sum(entropy) FROM token_stats"):
            words = (sql, "--format", "csv")
            assert numbers(ask(again.url, *words)) == numbers(ask(disk, *words))
        assert sum("hidden" in key for key, _, _ in again.seen) == 0
        refused = ask(again.url, "--write", "DROP TABLE spectra")
        assert (refused.exit_code, "read only" in refused.stderr) == (2, True)


# faults of the server


@pytest.mark.slow
@pytest.mark.parametrize("part", ["index.json", "COMMIT.json", "tokens.arrow", "block.1/c/0/0"])
@pytest.mark.parametrize(
    "fault", ["cut", "drop", "500", "503", "429", "short range", "other range"]
)
def test_a_fault_that_passes(small: ServedFolder, fault: str, part: str) -> None:
    small.once(fault, part)
    assert read(small.url) == read(str(small.folder / "lpp"))


@pytest.mark.parametrize("fault", ["elsewhere", "weak"])
def test_what_a_server_may_do(
    small: ServedFolder, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 100)
    monkeypatch.setattr("lpp.store.objects.address_objects.PART_BYTES", 100)
    small.always(fault)
    assert read(small.url) == read(str(small.folder / "lpp"))


def test_a_file_that_is_another_one_each_time(
    small: ServedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 100)
    small.always("restless", "index.json")
    with pytest.raises(MachineError, match="another version each time"):
        open_store(small.url)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (("404", ""), ErrorKind.NOT_A_STORE, "index.json: not there.*lpp-analyze index STORE"),
        (("403", ""), ErrorKind.DENIED, "refuses access .403.*HF_TOKEN"),
        (("500", ""), ErrorKind.UNREACHABLE, "HTTP 500.*LPP_RETRY_SECONDS"),
        (("503", "tokens"), ErrorKind.UNREACHABLE, "tokens.arrow: .*HTTP 503"),
        (("cut", "plan"), ErrorKind.UNREACHABLE, "plan.json: .*the connection was cut"),
        (("drop", "plan"), ErrorKind.UNREACHABLE, "plan.json: .*the connection was cut"),
        (("404", "plan"), ErrorKind.CORRUPT, "plan.json: missing, unlike index.json says"),
        (("404", "c/0/0"), ErrorKind.CORRUPT, "c/0/0: missing, unlike index.json says"),
        (("no ranges", "c/0"), ErrorKind.UNREACHABLE, "c/0/0: .*ignores the range"),
        (("short range", "c/0"), ErrorKind.UNREACHABLE, "c/0/0: .*another range"),
        (("other range", "c/0"), ErrorKind.UNREACHABLE, "c/0/0: .*another range"),
        (("no length", ""), ErrorKind.UNREACHABLE, "does not say how many bytes"),
    ],
)
def test_a_fault_that_stays(
    small: ServedFolder,
    monkeypatch: pytest.MonkeyPatch,
    fault: tuple[str, str],
    kind: ErrorKind,
    words: str,
) -> None:
    monkeypatch.setenv("LPP_RETRY_SECONDS", "0.5")
    small.always(*fault)
    with pytest.raises(LppError, match=words) as caught:
        read(small.url)
    assert caught.value.kind is kind
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert str(caught.value).startswith(small.url)
    asked = Counter(key for key, _, _ in small.seen if fault[1] in key)  # threads ask for several
    if fault[0].startswith("no "):  # asking again would not help
        assert set(asked.values()) == {1}
    small.rule = lambda _key: None
    assert read(small.url) == read(str(small.folder / "lpp"))  # nothing wrong was kept


# a store that changed


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("block.1/c/0/0", lambda d: bytes([d[0] ^ 1]) + d[1:], "rows 0 to .*altered since"),
        ("block.1/c/0/0", lambda d: d[:9], "c/0/0"),
        ("tokens.arrow", lambda d: d[:-1] + b"x", "altered or cut short.*only the owner"),
        ("prompts.arrow", lambda d: d + b"x", "more than .* unlike index.json says"),
        ("plan.json", lambda d: d[:-1], "plan.json: [0-9]+ bytes, not [0-9]+, unlike"),
        ("index.json", lambda d: d.replace(b'json":', b'json":1'), "checksum does not match"),
        ("index.json", lambda d: d[:-9], "index.json: not a JSON document"),
    ],
)
def test_a_file_that_is_not_as_it_was_indexed(
    small: ServedFolder, part: str, change: Callable[[bytes], bytes], words: str
) -> None:
    files = [p for p in (small.folder / "lpp").rglob("*") if p.as_posix().endswith(part)]
    for path in files:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FormatError, match=words) as caught:
        read(small.url)
    assert str(caught.value).startswith(small.url)
    if part != "index.json":
        assert any(str(problem).strip() for problem in only_run(small.url).verify())


@pytest.mark.slow
def test_a_database_that_was_computed_after_the_index(small: ServedFolder) -> None:
    disk = small.folder / "lpp"
    numbers(analyze("profile", disk))
    write_index(disk)
    data = bytearray((disk / "profiles.duckdb").read_bytes())
    data[len(data) // 2] ^= 1
    (disk / "profiles.duckdb").write_bytes(data)
    done = ask(small.url, "FROM profiles")
    assert done.exit_code == 2


def test_a_reader_sees_the_store_as_it_was_indexed(tmp_path: Path, capture: Capture) -> None:
    disk = tmp_path / "lpp"
    capture.write(disk, shards=(0,))
    (disk / "notes.txt").write_text("mine")
    (disk / "requests").mkdir()
    (disk / "requests" / "a").write_text("mine")
    (disk / "runs" / "empty").mkdir()
    (disk / "runs" / "link").symlink_to(disk / "notes.txt")
    _, count = write_index(disk)
    capture.write(disk)
    with served_folder(tmp_path) as server:
        assert only_run(server.url).missing_shards == (1, 2)
        objects = objects_at(server.url)
        assert [entry.name for entry in objects.entries()] == ["lpp.json", "runs"]
        assert len(list(objects.walk())) == count
        assert not objects.exists("notes.txt")
        served = server.sent
        assert [entry.name for entry in objects.entries("runs")] == [capture.plan.run_id]
        with pytest.raises(FileNotFoundError):
            objects.get("notes.txt", 9)
        assert server.sent == served  # what is not listed is not asked for
    write_index(disk)
    with served_folder(tmp_path) as server:
        assert only_run(server.url).verify() == []
        assert only_run(server.url).missing_shards == ()


def test_names_that_an_address_would_escape(tmp_path: Path) -> None:
    create_store(tmp_path / "lpp")
    odd = ("with space", "100%25", "a#b", "a?b=c&d", "[x]{y}", "日本", "a+b;c,~d", "quote'\"")
    for number, name in enumerate(odd):
        path = tmp_path / "lpp" / "analysis" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]))
    write_index(tmp_path / "lpp")
    with served_folder(tmp_path) as server:
        objects = objects_at(server.url).below("analysis")
        assert [objects.get(name, 1) for name in odd] == [bytes([n]) for n in range(len(odd))]
        assert {entry.name for entry in objects.entries()} == {*odd}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objects": {"runs": {"..": {"x": 1}}}}, "has a part '..'"),
        ({"objects": {"runs": -1}}, "'runs' has no size"),
        ({"objects": {"runs": True}}, "'runs' has no size"),
        ({"objects": 1}, "'objects' has no size"),
        ({"version": 2}, "Install a newer lpp-engine"),
    ],
)
def test_an_index_of_somebody_else(
    small: ServedFolder, changes: dict[str, Any], words: str
) -> None:
    path = small.folder / "lpp" / "index.json"
    document = json.loads(path.read_bytes()) | changes
    del document["self_xxh3_128"]
    seal = {"self_xxh3_128": checksum(canonical_json(document))}
    path.write_bytes(canonical_json(document | seal))
    with pytest.raises(FormatError, match=words):
        open_store(small.url)


# what is refused, and what is nobody's business


def test_nothing_is_written(small: ServedFolder, capture: Capture, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    objects = objects_at(small.url)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: create_store(small.url),
        lambda: create_store("https://lab.example/none"),
        lambda: capture.write(small.url),
        lambda: write_index(small.url),
        lambda: objects.put("a", b""),
        lambda: objects.put_new("a", b""),
        lambda: objects.delete(["lpp.json"]),
        lambda: objects.delete_below("runs"),
        objects.check_exclusive,
    )
    for call in calls:
        with pytest.raises(MachineError, match="a store at an address is read only") as caught:
            call()
        assert caught.value.kind is ErrorKind.READ_ONLY
    assert {key for key, _, _ in small.seen if not (tmp_path / key).exists()} == set()
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


HUB = "https://huggingface.co/datasets/lab/data"


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://lab.example/~me/my%20store/", "https://lab.example/~me/my store"),
        ("https://lab.example", "https://lab.example"),
        ("http://localhost:80/lpp", "http://localhost:80/lpp"),
        ("http://[::1]:80/lpp", "http://[::1]:80/lpp"),
        ("hf://datasets/lab/data", f"{HUB}/resolve/main"),
        ("hf://datasets/lab/data/deep/lpp", f"{HUB}/resolve/main/deep/lpp"),
        ("hf://datasets/lab/data@v1.0/lpp", f"{HUB}/resolve/v1.0/lpp"),
        ("https://me:SECRET@lab.example/lpp", None),
        ("https://lab.example/lpp?token=SECRET", None),
        ("https://lab.example/lpp#SECRET", None),
        ("https://lab.example/%2e%2e/lpp", None),
        ("https://lab.example/../lpp", None),
        ("https:///lpp", None),
        ("http://lab.example/SECRET", None),
        ("http://127.0.0.1.SECRET.example/", None),
        ("hf://datasets/SECRET", None),
        ("hf://lab/SECRET", None),
        ("hf://datasets/lab/data@a/../../SECRET", None),
    ],
)
def test_addresses(url: str, where: str | None) -> None:
    if where is None:
        with pytest.raises(InputError) as caught:
            place(url)
        assert "SECRET" not in str(caught.value)
    else:
        found = place(url)
        assert isinstance(found, BucketPath)
        assert str(found) == where
        assert place(where) == found
        assert isinstance(objects_at(url), AddressObjects)


def test_the_token_of_the_hub_goes_to_the_hub_alone(
    small: ServedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    files = tmp_path / "datasets" / "lab" / "data" / "resolve" / "main"
    shutil.copytree(tmp_path / "lpp", files / "lpp")
    assert read(small.url) == read(str(tmp_path / "lpp"))
    assert not any("authorization" in map(str.lower, headers) for _, headers, _ in small.seen)
    with served_folder(tmp_path) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.port}")
        hub.always("elsewhere", "c/0/0")  # as the hub does with large files
        assert read("hf://datasets/lab/data/lpp") == read(str(tmp_path / "lpp"))
        sent = {
            key: {name.lower(): value for name, value in headers.items()}.get("authorization")
            for key, headers, _ in hub.seen
        }
        assert {v for k, v in sent.items() if k.startswith("elsewhere/")} == {None}
        assert {v for k, v in sent.items() if k.startswith("datasets/")} == {"Bearer hf_SECRET"}
        hub.always("401")
        with pytest.raises(MachineError, match="private repository") as caught:
            read("hf://datasets/lab/data/other")
        assert "SECRET" not in str(caught.value)
