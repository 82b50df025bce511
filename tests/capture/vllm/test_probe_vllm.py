"""The probes through lm-eval inside vLLM."""

from pathlib import Path

from lpp.capture.models.spec import ModelSpec
from lpp.capture.probes.model import ProbeRequest
from lpp.capture.probes.probe import probe_into


def test_probes_score_alike_in_both_backends(packaged: Path, tmp_path: Path) -> None:
    found = {}
    for backend in ("torch", "vllm"):
        request = ProbeRequest(
            model=ModelSpec(id=str(packaged), dtype="float32"), backend=backend, shots=1, limit=4
        )
        done = probe_into(tmp_path / backend, request)
        found[backend] = {(s.task, s.metric): s.value for r in done.results for s in r.scores}
    assert len(found["torch"]) > 5
    assert found["vllm"] == found["torch"]
