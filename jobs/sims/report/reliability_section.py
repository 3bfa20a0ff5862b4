"""Whether probabilities mean what they say."""

from jobs.report import page
from jobs.sims.report.contents import Contents
from jobs.train.reliability_figure import reliability_figure

WARNING = (
    "Calibration holds for cells like the validation cells. For a query that is shifted against the "
    "reference (another tissue, technology, laboratory or species, or types that the reference lacks) "
    "probabilities can be far off, mostly too high; nothing here says by how much."
)


def reliability_section(contents: Contents) -> list[str]:
    """Return the reliability diagram, the calibration errors, and how far they can be trusted."""
    reliability, calibration = contents.facts["reliability"], contents.calibration
    rows = [
        (f"{contents.role} cells, {name} calibration", f"{found['ece']:.3f}", f"{found['nll']:.3f}")
        for name, found in reliability.items()
    ]
    if calibration["n"]:
        rows += [
            (
                f"validation cells, {name} calibration",
                f"{calibration[f'ece_{name}']:.3f}",
                f"{calibration[f'nll_{name}']:.3f}",
            )
            for name in ("before", "after")
        ]
    panels = {f"{name} calibration": found["bins"] for name, found in reliability.items()}
    caption = (
        f"Predictions for the {contents.role} cells in bins of their probability, with 95 % intervals; on "
        "the dashed line, predictions are right as often as they say. Below: how many cells each bin has "
        "(log scale)."
    )
    return [
        page.heading(2, "Reliability of probabilities"),
        page.paragraph(WARNING, "note"),
        page.paragraph(_temperature(contents)),
        page.table(("", "ECE", "NLL"), rows, numbers=(1, 2)),
        page.figure(reliability_figure(panels), caption),
        page.paragraph(
            "ECE: expected calibration error, the mean distance from the dashed line over the cells (15 "
            "bins). NLL: mean negative log-likelihood of the true class (nats). Lower is better for both.",
            "quiet",
        ),
    ]


def _temperature(contents: Contents) -> str:
    calibration = contents.calibration
    temperature, n = calibration["temperature"], calibration["n"]
    if not n:
        return "There were no validation cells to calibrate with: probabilities are as the model gives them."
    told = [f"Temperature {temperature:.3g}, fitted on {n:,} validation cells."]
    if not calibration["determined"]:
        told.append(
            "The validation cells do not determine it: all of them are predicted right, so it stays 1."
            if temperature == 1.0
            else "The validation cells do not determine it: it ends at a limit of its range."
        )
    if contents.n_folds > 1:
        told.append("Below, each fold has a temperature of its own, from its own validation cells.")
    before, after = (contents.facts["reliability"][key]["nll"] for key in ("before", "after"))
    if after > before and contents.role == "test":
        told.append(
            f"On the test cells it does harm: NLL {before:.3f} before, {after:.3f} after. Validation cells "
            "that are few, or unlike the test cells, do that."
        )
    return " ".join(told)
