"""The synthetic tasks inside vLLM."""

from pathlib import Path

from click.testing import CliRunner

from lpp.capture.cli.command import main
from lpp.store import read_scores


def test_synthetic_tasks_score_alike_in_both_backends(packaged: Path, tmp_path: Path) -> None:
    found = {}
    for backend in ("torch", "vllm"):
        words = [
            "eval",
            "--tasks",
            "lpp_ar,lpp_spc",
            "--sites",
            "final",
            "--model",
            packaged,
            "--backend",
            backend,
            "--dtype",
            "float32",
        ]
        words += ["--shots", 1, "--limit", 4, "--context", 512, "--store", tmp_path / backend]
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        rows = read_scores(tmp_path / backend).to_pylist()
        found[backend] = {(row["benchmark"], row["metric"]): row["value"] for row in rows}
    assert len(found["torch"]) == 18
    assert found["vllm"] == found["torch"]
