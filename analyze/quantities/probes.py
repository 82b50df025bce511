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
            definition="P(a prompt of the second class has the larger score), over pairs within a "
            "fold; scores of ridge logistic regression fitted to the other folds. Several "
            "classes: mean over each against the rest",
            source="Hanley and McNeil 1982; Alain and Bengio 2016, arXiv 1610.01644 (linear "
            "probes)",
            trap="The model need not use what a probe reads, and it need not be the label: length "
            "alone can give 0.998. See the gain over the best control.",
            bounds=(0.0, 1.0),
        ),
        Quantity(
            name="probe_r2",
            of="probe",
            unit="share",
            label="R2",
            definition="1 - squared error / squared error of the mean of the other folds, for a "
            "number; scores of ridge regression fitted to the other folds",
            source="Hoerl and Kennard 1970 (ridge regression)",
            trap="Negative if the probe predicts worse than the mean.",
            bounds=(UNBOUNDED[0], 1.0),
        ),
        Quantity(
            name="probe_gain",
            of="probe",
            unit="1",
            label="gain over the best control",
            short="gain",
            definition="AUROC or R2 of the probe minus that of the best control, same prompts and "
            "folds. A control reads no rows, or those of embed",
            source="Hewitt and Liang 2019, arXiv 1909.03368 (controls of probes); paired: DeLong, "
            "DeLong and Clarke-Pearson 1988",
            trap="Confounds without a control remain: name them with --group, or probe for them "
            "as labels.",
        ),
        Quantity(
            name="probe_recall",
            of="probe",
            unit="share",
            label="recall at 1 % false alarms",
            short="recall at 1 %",
            definition="share of the second class above the lowest threshold that at most 1 % of "
            "the other prompts exceed; scores of all folds together. Several classes: over all "
            "pairs of prompt and class. Missing with fewer than 100 others",
            source="Pepe 2003, section 5 (sensitivity at a false positive rate)",
            trap="Few prompts set the threshold: 1 % of the others. The interval takes scores as "
            "given and resamples clusters.",
        ),
        Quantity(
            name="probe_ece",
            of="probe",
            unit="share",
            label="calibration error",
            short="ECE",
            definition="expected calibration error of the probability of the second class, out of "
            "fold: sum over ten bins of equally many prompts of n_b / n |share of the class in b "
            "- mean probability in b|. Several classes: over all pairs of prompt and class",
            source="Naeini, Cooper and Hauskrecht 2015; Nixon et al. 2019, arXiv 1904.01685 (bins "
            "of equal mass)",
            trap="Noise makes it positive: compare with a calibrated probe on as many prompts.",
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
            definition="AUROC of A's probe on the rows of B minus that of a reference on the same "
            "prompts: A's probe on the rows of A (--against), or B's own probe (--test-on)",
            source="DeLong, DeLong and Clarke-Pearson 1988 (paired); arXiv 2606.15980 (probes that "
            "go stale)",
            trap="The probe is not refitted: one fitted to the rows of B may read the label as "
            "well as before.",
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
            "B, minus the share of the reference",
            source="McNemar 1947; Newcombe 1998; Durkalski et al. 2003 (clusters)",
            trap="Prompts that move in opposite directions cancel out; the AUROC shows them.",
            bounds=(-1.0, 1.0),
            identity=0.0,
        ),
    )
)
"""By name: how a probe of run A does on the rows of run B."""
