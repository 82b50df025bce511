"""`lpp-analyze probe` as an answer."""

from lpp.analyze.pages.reply import Reply, reply
from lpp.analyze.probes.analysis import probe
from lpp.analyze.probes.page import probe_page
from lpp.analyze.probes.tables import write_probes
from lpp.analyze.questions import LabelProbeSettings
from lpp.analyze.runs.incomplete import incomplete_lines
from lpp.analyze.runs.keys import Url
from lpp.analyze.tables.database import kept
from lpp.store.progress import Progress


def probe_answer(
    store: Url, label: str, run: str | None, settings: LabelProbeSettings, *, progress: Progress
) -> Reply:
    """Probes of a label; errors are those of `probe`."""
    result = probe(store, label, run, settings, progress=progress)
    for line in incomplete_lines([result.view]):
        progress.warn(line)
    database = kept("The probes are", lambda: write_probes(store, result), progress)
    return reply(probe_page(f"{store}", result), stored=database)
