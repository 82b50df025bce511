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
            "fold; scores of ridge logistic regression fitted to other folds; of several classes "
            "the mean over each against the rest",
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
        Quantity(
            name="probe_recall",
            of="probe",
            unit="share",
            label="recall at 1 % false alarms",
            short="recall at 1 %",
            definition="share of the prompts of the second class whose score exceeds the lowest "
            "threshold that at most 1 % of the others exceed; scores of all folds together; of "
            "several classes over all pairs of a prompt and a class",
            source="Pepe 2003, section 5 (sensitivity at a false positive rate)",
            trap="The threshold is set by few prompts: 1 % of them. The interval takes scores as "
            "given, and resamples clusters. Of fewer than 100 others there is none.",
        ),
        Quantity(
            name="probe_ece",
            of="probe",
            unit="share",
            label="calibration error",
            short="ECE",
            definition="expected calibration error of the probability of the second class, out of "
            "fold: the sum over ten bins of equally many prompts of n_b / n |share of the class in "
            "b - mean probability in b|; of several classes over all pairs of a prompt and a class",
            source="Naeini, Cooper and Hauskrecht 2015; Nixon et al. 2019, arXiv 1904.01685 (bins "
            "of equal mass)",
            trap="Noise makes it positive: see what a calibrated probe has on as many prompts.",
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
            definition="AUROC of the probe of A on the rows of B less that of the reference on the "
            "same prompts: of the same probe on the rows of A (--against), or of B's own probe "
            "(--test-on)",
            source="DeLong, DeLong and Clarke-Pearson 1988 (paired); arXiv 2606.15980 (probes that "
            "go stale)",
            trap="Of a probe that stays as it is. A probe fitted to the rows of B may read the "
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
            definition="share of prompts that the probe of A scores above its threshold, on the "
            "rows of B, less that share of the reference",
            source="McNemar 1947; Newcombe 1998; Durkalski et al. 2003 (clusters)",
            trap="Prompts that move in opposite directions cancel out; the AUROC shows those.",
            bounds=(-1.0, 1.0),
            identity=0.0,
        ),
    )
)
"""By name: how a probe of run A does on the rows of run B."""
