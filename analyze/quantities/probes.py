"""The numbers of a probe: how well scores out of fold predict a label."""

from typing import Final

from lpp.analyze.quantities.quantity import UNBOUNDED, Quantity, by_name

PROBE_NUMBERS: Final = by_name(
    (
        Quantity(
            name="probe_auroc",
            of="probe",
            unit="probability",
            label="AUROC",
            definition="P(a prompt of the second class scores higher than one of the first), over "
            "pairs within a fold. Scores: ridge logistic regression, fitted to the other folds. "
            "Several classes: mean AUROC of each against the rest",
            source="Hanley and McNeil 1982; Alain and Bengio 2016, arXiv 1610.01644 (linear "
            "probes)",
            trap="The model need not use the label. The probe may read what goes with the label: "
            "length alone can give 0.998, so look at the gain over the best control.",
            bounds=(0.0, 1.0),
        ),
        Quantity(
            name="probe_r2",
            of="probe",
            unit="share",
            label="R2",
            definition="1 - squared error / squared error of the mean of the other folds; the "
            "label is a number. Scores: ridge regression, fitted to the other folds",
            source="Hoerl and Kennard 1970 (ridge regression)",
            trap="R2 is negative if the probe predicts worse than the mean.",
            bounds=(UNBOUNDED[0], 1.0),
        ),
        Quantity(
            name="probe_gain",
            of="probe",
            unit="1",
            label="gain over the best control",
            short="gain",
            definition="AUROC or R2 of the probe minus AUROC or R2 of the best control, on the "
            "same prompts and folds. A control reads no hidden states, or those of embed",
            source="Hewitt and Liang 2019, arXiv 1909.03368 (controls of probes); paired: DeLong, "
            "DeLong and Clarke-Pearson 1988",
            trap="The controls do not cover every confound: name a confound with --group, or "
            "probe for it as a label.",
        ),
        Quantity(
            name="probe_recall",
            of="probe",
            unit="share",
            label="recall at 1 % false alarms",
            short="recall at 1 %",
            definition="share of the second class that scores above the lowest threshold that at "
            "most 1 % of the other prompts exceed. Folds are pooled; with several classes, so are "
            "pairs of prompt and class. Missing with fewer than 100 other prompts",
            source="Pepe 2003, section 5 (sensitivity at a false positive rate)",
            trap="Few prompts, 1 % of the others, decide the threshold. The interval "
            "resamples clusters and does not fit the probe again.",
        ),
        Quantity(
            name="probe_ece",
            of="probe",
            unit="share",
            label="calibration error",
            short="ECE",
            definition="expected calibration error of the probability of the second class, out of "
            "fold: sum over ten bins b of n_b / n |share of the second class in b - mean "
            "probability in b|. Bins hold equally many prompts. Several classes: all pairs of "
            "prompt and class",
            source="Naeini, Cooper and Hauskrecht 2015; Nixon et al. 2019, arXiv 1904.01685 (bins "
            "of equal mass)",
            trap="Positive by noise alone: compare with a calibrated probe on as many prompts.",
        ),
    )
)
"""By name."""

PROBE_CHANGES: Final = by_name(
    (
        Quantity(
            name="probe_auroc_change",
            of="probe_pair",
            unit="1",
            label="change of AUROC",
            short="change",
            definition="AUROC of A's probe on the rows of B minus AUROC of the reference, on the "
            "same prompts. Reference: A's probe on the rows of A (--against), or B's probe "
            "(--test-on)",
            source="DeLong, DeLong and Clarke-Pearson 1988 (paired); arXiv 2606.15980 (probes that "
            "go stale)",
            trap="A's probe is not fitted again: a probe fitted to the rows of B may read the "
            "label as well as before.",
            bounds=(-1.0, 1.0),
            identity=0.0,
        ),
        Quantity(
            name="probe_flagged_change",
            of="probe_pair",
            unit="1",
            label="change of the share above the threshold",
            short="flagged change",
            definition="share of prompts that A's probe scores above its threshold on the rows of "
            "B, minus the same share for the reference (see probe_auroc_change)",
            source="McNemar 1947; Newcombe 1998; Durkalski et al. 2003 (clusters)",
            trap="Opposite moves across the threshold cancel out; the change of AUROC shows them.",
            bounds=(-1.0, 1.0),
            identity=0.0,
        ),
    )
)
"""By name: how a probe of run A does on the rows of run B."""
