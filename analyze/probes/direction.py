"""The direction of a probe as a file: safetensors that any library of hooks can apply.

Tensors, in float32, d being the width of the site:

- `mean`, `scale` (d,): of the columns of the rows that the probe was fitted to; a row x is centred
  and scaled as (x - mean) / scale.
- `weight` (d,), `bias`, `threshold` (1,): the ridge logistic probe. ((x - mean) / scale) @ weight +
  bias is the log odds of the second class; above `threshold`, the log odds among the labelled
  prompts, it speaks for that class.
- `difference_of_means` (d,): mean row of the second class less that of the first, in the units of
  the rows: a steering vector. `difference_threshold` (1,): as a score, ((x - mean) / scale) @
  (difference_of_means / scale), halfway between the two means.

The probe is of all labelled prompts; its AUROC in the metadata is of probes that saw other folds.
"""

import json
from pathlib import Path

import numpy as np

from lpp.analyze.numerics.linear_probe import fit
from lpp.analyze.numerics.probe_change import middle, threshold_of
from lpp.analyze.probes.against import require_two_classes
from lpp.analyze.probes.inputs import site_rows
from lpp.analyze.probes.rows import ProbeAnalysis
from lpp.sql.results.output import whole_file
from lpp.store.arrays.reader import to_float32
from lpp.store.errors import InputError
from lpp.store.exchange.tensor_file import Tensor, write_tensors

FORMAT = "lpp-probe-1"


def check_file(path: Path) -> None:
    """Raise InputError if a direction cannot be written there, before it is computed."""
    if path.exists() or not path.parent.is_dir():
        why = "exists already" if path.exists() else "its folder does not exist"
        raise InputError(f"{path}: {why}. Name another --direction.")


def write_direction(analysis: ProbeAnalysis, path: Path) -> None:
    """Write the direction of the best site of `analysis`, or of its only one, to a new file.

    The rows of the site are read once more. Raises InputError for a label that has not two classes,
    and for a file that exists.
    """
    check_file(path)
    labels, best, settings = analysis.labels, analysis.best, analysis.settings
    require_two_classes(labels)
    run, which, y = analysis.view.run, analysis.which, labels.target.labels
    first, ends = settings.skip_first, labels.ends
    rows = to_float32(site_rows(analysis.view, best.name, labels.prompts, which, first, ends=ends))
    probe = fit(rows, y, middle(best.fitted.strengths), classes=True)
    mean, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale = np.where(probe.weights == 0, 1.0, scale)  # a column that does not vary
    means = [rows[y == label].mean(axis=0, dtype=np.float64) for label in (0, 1)]
    difference = means[1] - means[0]
    halfway = ((means[0] + means[1]) / 2 - mean) / scale @ (difference / scale)
    tensors = {
        "mean": mean,
        "scale": scale,
        "weight": probe.weights * scale,
        "bias": [probe.intercept + mean @ probe.weights],
        "threshold": [threshold_of(y)],
        "difference_of_means": difference,
        "difference_threshold": [halfway],
    }
    spec = run.site(best.name)
    metadata = {
        "format": FORMAT,
        "run": run.id,
        "model": run.plan.model.id,
        "weights": run.plan.model.weights,
        "site": best.name,
        "convention": spec.convention,
        "rows": settings.rows,
        "skip_first": settings.skip_first,
        "label": labels.name,
        "classes": labels.classes,
        "n_prompts": len(labels.prompts),
        "probe_auroc": best.number.value,
        "control": best.control,
        "probe_gain": None if best.gain is None else best.gain.value,
    }
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    named = {k: Tensor("F32", np.asarray(values, np.float32)) for k, values in tensors.items()}
    with whole_file(path) as beside:
        write_tensors(beside, named, texts)
