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
            definition="P(a prompt of the second class has the larger score), over pairs of one "
            "fold; scores of ridge logistic regression fitted to other folds",
            source="Hanley and McNeil 1982; Alain and Bengio 2016, arXiv 1610.01644 (linear "
            "probes)",
            trap="What a probe reads need not be what the model uses, nor the label itself: length "
            "alone can give .998. Look at the gain over the best control.",
            bounds=(0.0, 1.0),
        ),
        Quantity(
            name="probe_r2",
            of="probe",
            unit="share",
            label="R2",
            definition="for a number: 1 less the squared error over that of the mean of the other "
            "folds; scores of ridge regression fitted to other folds",
            source="Hoerl and Kennard 1970 (ridge regression)",
            trap="Below 0 where the probe predicts worse than the mean does.",
            bounds=(UNBOUNDED[0], 1.0),
        ),
        Quantity(
            name="probe_gain",
            of="probe",
            unit="1",
            label="gain over the best control",
            short="gain",
            definition="AUROC or R2 of the probe less that of the best control on the same prompts "
            "and folds; a control reads no rows, or those of embed",
            source="Hewitt and Liang 2019, arXiv 1909.03368 (controls of probes); paired: DeLong, "
            "DeLong and Clarke-Pearson 1988",
            trap="A control that is not computed explains nothing away: name other confounds with "
            "--group, or label them and probe for them.",
        ),
    )
)
"""By name."""
