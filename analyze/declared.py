"""Every table of results, in the order of the database: each is declared beside the code that
computes its numbers, and `lpp.sql` reads the declarations from a file (`lpp.sql.schema.results`).
"""

from typing import Final

from lpp.analyze.drift.predictions import DRIFT_TOKENS
from lpp.analyze.drift.sites import DRIFT_SITES
from lpp.analyze.drift.tables import DRIFT_PREDICTIONS
from lpp.analyze.evaluations.tables import (
    ITEM_ANALYSES,
    ITEM_FEATURES,
    ITEM_RELIABILITY,
    ITEM_RISK,
)
from lpp.analyze.probes.tables import PROBE_RELIABILITY, PROBE_SCORES, PROBE_TESTS, PROBES
from lpp.analyze.studies.cka import CKA
from lpp.analyze.studies.layers_tables import EXPERT_LOAD, HOURGLASS, LAYERS
from lpp.analyze.tables import entropy, metrics
from lpp.analyze.tables.jackknife import JACKKNIFE
from lpp.analyze.tables.profile import PROFILES, SITE_PROFILES
from lpp.analyze.tables.spectra import SPECTRA

RESULTS: Final = (
    *(SPECTRA, entropy.TABLE, metrics.TABLE, PROFILES, SITE_PROFILES, JACKKNIFE),
    *(LAYERS, HOURGLASS, EXPERT_LOAD, CKA),
    *(DRIFT_PREDICTIONS, DRIFT_SITES, DRIFT_TOKENS),
    *(ITEM_ANALYSES, ITEM_FEATURES, ITEM_RELIABILITY, ITEM_RISK),
    *(PROBES, PROBE_SCORES, PROBE_RELIABILITY, PROBE_TESTS),
)
