"""The stores that commands are asked of, made once: `build/golden/`."""

import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from lpp.analyze.quickstart import PACKED
from lpp.capture.cli.demo import UNTRAINED_SEED, capture_rounded, demo_request
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.gguf import packaged_model

COMMITTED = Path(__file__).parents[1] / "store" / "golden"


def make(folder: Path) -> None:
    """The demo of 12 prompts and 40 tokens, the quickstart's store, two committed stores."""
    for name in ("v3", "v5"):
        if not (folder / name).exists():
            shutil.copytree(COMMITTED / name, folder / name)
    if not (folder / "quickstart").exists():
        with tarfile.open(PACKED) as archive:
            archive.extractall(folder / "quickstart", filter="data")
    if not (folder / "made").exists():
        for seed in (None, UNTRAINED_SEED):
            request = demo_request(packaged_model(), seed)
            request = replace(request, selection=Selection(prompts=12), context=40)
            capture_into(folder / "demo", request)
        trained = demo_request(packaged_model(), None).model
        capture_rounded(folder / "demo", replace(request, model=trained))
        (folder / "made").touch()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
