"""How good the model is: scores beside those of simple methods, the control, class by class."""

from jobs.report import page
from jobs.sims.report.contents import Contents
from jobs.sims.results import digits, interval, invalid, remarks, scores_rows
from jobs.train.confusion_figure import confusion_figure

SHOWN_MISTAKES = 10


def scores_section(contents: Contents) -> list[str]:
    """Return the table of scores with the control, and what is to be said of them."""
    facts = contents.facts
    rows: list[tuple[object, ...]] = [
        (row.method, digits(row.accuracy), interval(row), digits(row.macro_f1), " ".join(row.notes))
        for row in scores_rows(facts)
    ]
    control = facts["control"]
    if control is not None:
        limit = f"at most {digits(control['limit'])}"
        told = "sound: no better than chance" if control["valid"] else "INVALID: better than chance"
        rows.append(("control: a model of shuffled labels", digits(control["accuracy"]), limit, "", told))
    head = ("", "accuracy", "95 % interval", "macro-F1", "")
    parts = [
        page.heading(2, f"Scores on {contents.scores['n']:,} {contents.role} cells"),
        page.table(head, rows, numbers=(1, 2, 3)),
    ]
    if reason := invalid(facts):
        parts.insert(1, page.paragraph(reason, "alarm"))
    parts += [page.paragraph(sentence, "note") for sentence in remarks(facts)]
    parts.append(page.paragraph(_explained(contents), "quiet"))
    return parts + _notes(contents)


def classes_section(contents: Contents) -> list[str]:
    """Return the confusion matrix, the most frequent mistakes and the scores of each class."""
    scores = contents.scores
    caption = (
        f"The {contents.role} cells by true class (rows) and predicted class (columns), as numbers; the "
        "colour is the share of the true class (k: thousands; resting on a square says it exactly). A row "
        "without colour is a class that has no such cell."
    )
    picture = confusion_figure(scores["classes"], scores["confusion"])
    return [
        page.heading(2, "Class by class"),
        page.figure(picture, caption),
        *_mistakes(contents),
        _per_class(contents),
        page.paragraph(
            "Precision: the share of the cells predicted as the class that are of it. Recall: the share of "
            "its cells that are found. F1: their harmonic mean. A dash: no cell to take the share of.",
            "quiet",
        ),
    ]


def _explained(contents: Contents) -> str:
    facts = contents.facts
    told = [
        f"The most frequent class has {contents.scores['majority_rate']:.1%} of these cells. Macro-F1 is the "
        "mean over the classes, the rare ones counted like the others."
    ]
    if contents.n_folds > 1:
        told.append(
            f"Each cell was tested once, by one of {contents.n_folds} models that had not seen it; the model "
            "that is kept is trained on all cells and untested itself. Each macro-F1 is a mean over folds."
        )
    if contents.role == "validation":
        told.append(
            "There are no test cells: these are the validation cells, scored by the model that was not "
            "trained on them. They have chosen the temperature, and what else the settings let them choose."
        )
    if facts["control"] is None:
        told.append("Without test cells there is no control of shuffled labels.")
    return " ".join(told)


def _notes(contents: Contents) -> list[str]:
    notes = contents.facts["notes"]
    return [page.heading(3, "Notes"), *(page.paragraph(note) for note in notes)] if notes else []


def _mistakes(contents: Contents) -> list[str]:
    classes, confusion = contents.scores["classes"], contents.scores["confusion"]
    found = sorted(
        (-count, i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count and i != j
    )
    if not found:
        return [page.paragraph(f"All {contents.role} cells are predicted right.")]
    rows = [
        (classes[i], classes[j], f"{-count:,}", f"{-count / sum(confusion[i]):.0%}")
        for count, i, j in found[:SHOWN_MISTAKES]
    ]
    head = ("true class", "predicted", "cells", "of the true class")
    return [page.heading(3, "The most frequent mistakes"), page.table(head, rows, numbers=(2, 3))]


def _per_class(contents: Contents) -> str:
    reference = contents.facts["data"]["cells_of_class"]
    confusion = contents.scores["confusion"]
    rows = []
    for i, one in enumerate(contents.scores["per_class"]):
        predicted = sum(row[i] for row in confusion)
        rows.append(
            (
                one["name"],
                f"{reference.get(one['name'], 0):,}",
                f"{one['support']:,}",
                digits(one["precision"]) if predicted else "–",
                digits(one["recall"]) if one["support"] else "–",
                digits(one["f1"]) if one["support"] else "–",
            )
        )
    head = ("class", "cells in the reference", f"{contents.role} cells", "precision", "recall", "F1")
    return page.heading(3, "Scores of each class") + page.table(head, rows, numbers=range(1, 6))
