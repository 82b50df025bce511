"""The command that installs what is missing names packages, as a clone and a wheel need it."""

import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from lpp.store.process.packages import install_command

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]


def test_only_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.9", "transformers": "5.24", "safetensors": "0.5", "accelerate": "1.2"}

    def version(name: str) -> str:
        if name in there:
            return there[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert shlex.split(install_command("adapters")) == [
        *("pip", "install", "datasets>=3.2", "gguf>=0.14", "huggingface-hub>=1.5", "peft>=0.18")
    ]
    there.clear()
    for extra in ("torch", "objects", "report", "ray", "fuzz"):
        assert shlex.split(install_command(extra)) == ["pip", "install", *EXTRAS[extra]]


def test_all_is_named_where_an_import_fails_though_everything_is_there() -> None:
    assert shlex.split(install_command("report")) == ["pip", "install", *EXTRAS["report"]]
