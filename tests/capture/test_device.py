"""Which device a capture computes on, and that one file alone knows what differs between kinds."""

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_capture import make_plan

from lpp.capture.cli.command import main
from lpp.capture.models import device
from lpp.capture.models.device import KINDS, choose_device, why_device
from lpp.capture.plan.from_plan import RepairOptions, request_of_plan
from lpp.capture.plan.requested import request_of
from lpp.capture.plan.settings import CaptureSettings

CAPTURE = Path(device.__file__).parents[1]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a driver, on which torch sees a card."""
    monkeypatch.setattr(device, "_DRIVERS", (str(tmp_path),))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card 9000")


def test_without_a_driver_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_DRIVERS", ("/nowhere",))
    assert choose_device()[0] == "cpu"
    assert request_of(CaptureSettings(model="m", corpus="pydoc")).model.device == "cpu"


def test_a_driver_whose_card_torch_does_not_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "_DRIVERS", (str(tmp_path),))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    chosen, why = choose_device()
    assert chosen == "cpu"
    assert torch.__version__ in why


@pytest.mark.usefixtures("card")
def test_a_card_that_torch_sees_is_taken() -> None:
    chosen, why = choose_device()
    assert chosen == "cuda"
    assert "Card 9000" in why
    assert request_of(CaptureSettings(model="m", corpus="pydoc")).model.device == "cuda"
    named = request_of(CaptureSettings(model="m", corpus="pydoc", device="cpu"))
    assert named.model.device == "cpu"
    assert "cuda" in why_device("cpu")
    assert "Card 9000" in why_device("cuda:1")
    assert KINDS["cuda"].tried in why_device("cuda")


@pytest.mark.usefixtures("card")
def test_a_repair_computes_where_the_plan_says() -> None:
    plan = make_plan()
    assert request_of_plan(plan, RepairOptions()).model.device == "cpu"
    assert request_of_plan(plan, RepairOptions(device="auto")).model.device == "cuda"


def test_a_card_of_a_kind_without_a_table_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, card: None
) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("hpu"))
    chosen, why = choose_device()
    assert (chosen, "hpu" in why) == ("cpu", True)


def test_no_other_file_asks_for_the_name_of_a_kind() -> None:
    cards = "|".join(KINDS.keys() - {"cpu"})
    asks = re.compile(rf"""["']({cards})\b|torch\.(cuda|xpu|mps)\b""")
    found = {
        f"{path.relative_to(CAPTURE)}: {line.strip()}"
        for path in CAPTURE.rglob("*.py")
        if path != Path(device.__file__)
        for line in path.read_text("utf-8").splitlines()
        if asks.search(line)
    }
    assert found == set()


def test_help_names_every_kind() -> None:
    said = CliRunner().invoke(main, ["run", "--help"]).output
    assert [kind for kind in KINDS if kind not in said] == []
