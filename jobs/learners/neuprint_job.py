"""The jobs of NeuPRINT: methods compared on splits of neurons; and dynamics fitted to all of them, with a probe."""

import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from neurofleet.errors import UsageError
from neurofleet.input_paths import name_of, place_of
from neurofleet.jobs.learners.evaluation_pieces import Piece, do_missing, write_result
from neurofleet.jobs.learners.learner_folder import EXAMPLES, HISTORY, PIECES, PREDICTIONS, SCORES
from neurofleet.jobs.learners.learner_job import LearnerJob, LearnerRun, Trained, Trainings, Trial
from neurofleet.jobs.learners.neuprint_report import NeuprintReport, method_name
from neurofleet.jobs.learners.neuprint_spec import NeuprintEvaluateSpec, NeuprintSpec
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import raise_if_interrupted, refuse_missing, versions
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.neuron_splits import (
    Mode,
    ablations,
    class_splits,
    growing_inputs,
    neuron_splits,
    summary,
    trained_neurons,
    units_of,
)
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.splits import Split, fingerprint, read_splits, write_splits

if TYPE_CHECKING:
    from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
    from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
    from neurofleet.learners.neuprint.neuron_classification import NeuronAnswer, NeuronSplitCase

MEASURED_EPOCHS = 2
MEASURED_STEPS = 5
CHOSEN_BY_SWEEP = (
    "The sweep has compared its trials by how well they predict the last frames of the first split's training"
    " neurons. No class was read for that, so the scores are those of settings that were given beforehand."
)
SPLITS = "split.parquet"
OF_PHI = ("phi", "phi_and_hand")
PROBED = ("phi", "pca", "umap", "random")
"""Methods that choose a probe's setting by cross-validation inside the training neurons."""

CONTROL_PROBE = "linear"
WITH_HAND = "+ hand statistics"
REFERENCE = "hand_forest"
COMPARED_SCORES = ("accuracy", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class NeuprintInputs:
    """What a job of NeuPRINT reads.

    Attributes
    ----------
    recordings : Recordings
    splits : list of Split
    classes : array of str, shape (neurons,)
        "" where there is none, or one with too few neurons.
    settings : dict of NeuprintSettings
        By name: ``phi`` as the job says, and with an ablation the others.
    sources : dict
        Arguments of `open_recordings`, to open the recordings again in another process.
    notes : list of str
    """

    recordings: Recordings
    splits: list[Split]
    classes: np.ndarray
    settings: dict[str, NeuprintSettings]
    sources: dict[str, Any]
    notes: list[str]

    @property
    def n_labelled(self) -> int:
        """Neurons that have a class."""
        return int((self.classes != "").sum())

    @property
    def counts(self) -> dict[str, int]:
        """Neurons of each class."""
        names, counts = np.unique(self.classes[self.classes != ""], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class ShuffledAnswer:
    """The control of a split: its test neurons' shuffled classes, and what a probe took them for."""

    true: list[str]
    guess: list[str]


@dataclass(frozen=True)
class MethodAnswer:
    """What a method, by a probe where it has one, took the test neurons for, and how sure it was."""

    method: str
    probe: str
    guess: list[str]
    probability: list[float]

    @classmethod
    def of(cls, method: str, probe: str, answer: "NeuronAnswer") -> "MethodAnswer":
        """Return an answer as it is kept."""
        return cls(method, probe, answer.guess.tolist(), answer.probabilities.max(1).round(6).tolist())


@dataclass(frozen=True)
class NeuprintPiece(Piece):
    """One settings of the dynamics, or one baseline, on one split.

    Attributes
    ----------
    sources : dict
        Arguments of `open_recordings`.
    label, mode : str
    splits : Path
        The file of splits.
    number : int
        Of the split.
    seed : int
        Of the job.
    methods : tuple of str
    name : str
        Of the settings, or the baseline.
    settings : NeuprintSettings or None
        None for a baseline.
    has_control : bool
        Whether labels are also shuffled.
    """

    sources: dict[str, Any]
    label: str
    mode: Mode
    splits: Path
    number: int
    seed: int
    methods: tuple[str, ...]
    name: str
    settings: NeuprintSettings | None
    has_control: bool

    def result(self) -> dict[str, Any]:
        """Do the piece; see `Piece.result`."""
        from neurofleet.learners.local_training import train_here
        from neurofleet.learners.neuprint.neuron_classification import baseline_answer
        from neurofleet.learners.neuprint.train_neuprint import fit

        recordings = _recordings(json.dumps(self.sources))
        case = self.case(recordings, read_splits(self.splits)[self.number])
        if self.settings is None:
            return _kept(case, [MethodAnswer.of(self.name, "", baseline_answer(case, self.name))])

        def train(task: Any, name: str, seed: int) -> Any:
            return train_here(task, name, seed, lambda row: raise_if_interrupted())

        neurons = trained_neurons(recordings, case.split, self.mode)
        model = fit(recordings, neurons, self.settings, train, case.seed, placed=False)
        return self.result_of_phi(case, model.phi)

    def case(self, recordings: Recordings, split: Split) -> "NeuronSplitCase":
        """Return what the piece is done on."""
        from neurofleet.learners.neuprint.neuron_classification import NeuronSplitCase

        return NeuronSplitCase(recordings, recordings.labels(self.label), split, self.mode, self.seed + self.number)

    def result_of_phi(self, case: "NeuronSplitCase", phi: np.ndarray) -> dict[str, Any]:
        """Probe the Phi of all neurons, (neurons, size), and return what is kept."""
        from neurofleet.learners.neuprint.neuprint_model import PROBES
        from neurofleet.learners.neuprint.neuron_classification import FOREST, probe_answer, with_hand_answer

        answers, shuffled = [], None
        if self.has_control:
            control = case.shuffled()
            guess = probe_answer(control, CONTROL_PROBE, phi).guess
            shuffled = ShuffledAnswer(control.true.tolist(), guess.tolist())
        if "phi" in self.methods:
            answers += [MethodAnswer.of(self.name, probe, probe_answer(case, probe, phi)) for probe in PROBES]
        if "phi_and_hand" in self.methods:
            answers.append(MethodAnswer.of(f"{self.name} {WITH_HAND}", FOREST, with_hand_answer(case, phi)))
        return _kept(case, answers, shuffled)


def pieces_of(spec: NeuprintSpec, inputs: NeuprintInputs, out: Path) -> list[NeuprintPiece]:
    """Return all pieces, split by split: each settings of the dynamics, then each baseline."""
    dynamics = inputs.settings if set(spec.methods) & set(OF_PHI) else {}
    work: dict[str, NeuprintSettings | None] = {**dynamics}
    work |= {name: None for name in spec.methods if name not in OF_PHI}
    control = list(dynamics)[-1] if dynamics else None  # those that see most
    return [
        NeuprintPiece(
            file=(out / PIECES / f"split-{number}-{quote(name, safe='+ ')}.json").absolute(),
            kind=name,
            title=f"split {number + 1}, {method_name(name)}",
            sources=inputs.sources,
            label=spec.label,
            mode=spec.mode,
            splits=(out / SPLITS).absolute(),
            number=number,
            seed=spec.seed,
            methods=tuple(spec.methods),
            name=name,
            settings=settings,
            has_control=name == control,
        )
        for number in range(len(inputs.splits))
        for name, settings in work.items()
    ]


def _kept(
    case: "NeuronSplitCase", answers: Sequence[MethodAnswer], shuffled: ShuffledAnswer | None = None
) -> dict[str, Any]:
    return {
        "test": case.split.rows("test").tolist(),
        "answers": [asdict(answer) for answer in answers],
        "shuffled": asdict(shuffled) if shuffled else {},
    }


@lru_cache(maxsize=1)
def _recordings(sources: str) -> Recordings:
    return open_recordings(**json.loads(sources))


@dataclass(frozen=True)
class SplitAnswers:
    """The result of a piece, read again.

    Attributes
    ----------
    number : int
        Of the split.
    test : array of int
        Rows of the test neurons.
    answers : list of MethodAnswer
    shuffled : ShuffledAnswer or None
    """

    number: int
    test: np.ndarray
    answers: list[MethodAnswer]
    shuffled: ShuffledAnswer | None


def read_answers(pieces: Sequence[NeuprintPiece]) -> list[SplitAnswers]:
    """Return the results of pieces that are all done."""
    results = []
    for piece in pieces:
        kept = json.loads(piece.file.read_text())
        answers = TypeAdapter(list[MethodAnswer]).validate_python(kept["answers"])
        shuffled = ShuffledAnswer(**kept["shuffled"]) if kept["shuffled"] else None
        results.append(SplitAnswers(piece.number, np.array(kept["test"], dtype=np.int64), answers, shuffled))
    return results


def predictions_table(results: Sequence[SplitAnswers], inputs: NeuprintInputs) -> pa.Table:
    """Return a row for each test neuron, split, method and probe: its class, and what it was taken for."""
    neurons = inputs.recordings.neurons
    ids, animals = neurons.index.to_numpy().astype(str), inputs.recordings.labels("animal")
    return pa.concat_tables(
        [
            pa.table(
                {
                    "neuron_id": ids[result.test],
                    "animal": animals[result.test],
                    "split": [result.number] * len(result.test),
                    "method": [answer.method] * len(result.test),
                    "probe": [answer.probe] * len(result.test),
                    "true": inputs.classes[result.test],
                    "predicted": answer.guess,
                    "probability": answer.probability,
                }
            )
            for result in results
            for answer in result.answers
        ]
    )


def compared_methods(results: Sequence[SplitAnswers], inputs: NeuprintInputs, mode: Mode) -> dict[str, Any]:
    """Return the scores of methods and the control of shuffled labels, as plain JSON.

    Intervals are 95 % by Student's t: over animals where each is tested as a whole, its seeds averaged; else
    over the splits, whose test neurons overlap, so that they tell how a result depends on the draw.
    """
    from neurofleet.learners.label_controls import shuffle_control
    from neurofleet.learners.neuprint.neuron_classification import classes_of

    by_method: dict[tuple[str, str], dict[int, Scores]] = {}
    shuffles = []
    for result in results:
        true = inputs.classes[result.test]
        names = classes_of(inputs.classes, inputs.splits[result.number])
        for answer in result.answers:
            of_method = by_method.setdefault((answer.method, answer.probe), {})
            of_method[result.number] = score(true, answer.guess, names)
        if result.shuffled:
            shuffles.append(score(result.shuffled.true, result.shuffled.guess, names))
    units = units_of(inputs.recordings, inputs.splits, mode)
    reference = by_method.get((REFERENCE, ""))
    first = list(next(iter(by_method.values())).values())
    return {
        "methods": [_row(key, by_split, reference, units) for key, by_split in by_method.items()],
        "majority_rate": float(np.average([each.majority_rate for each in first], weights=[each.n for each in first])),
        "reference": REFERENCE if reference else None,
        "intervals_over": "animals" if mode == "cross" else "splits",
        "control": asdict(shuffle_control(shuffles)) if shuffles else None,
    }


def _row(
    key: tuple[str, str],
    by_split: Mapping[int, Scores],
    reference: Mapping[int, Scores] | None,
    units: Sequence[str],
) -> dict[str, Any]:
    """Return the scores of a method and probe; the difference to the reference where there is one."""
    row: dict[str, Any] = {"method": key[0], "probe": key[1], "splits": len(by_split)}
    row["n"] = sum(scores.n for scores in by_split.values())
    for name in COMPARED_SCORES:
        values = {number: getattr(scores, name) for number, scores in by_split.items()}
        row |= _summary(name, values, units, within=(0.0, 1.0))
    if reference is not None and key[0] != REFERENCE:
        gain = {number: scores.accuracy - reference[number].accuracy for number, scores in by_split.items()}
        row |= _summary("difference", gain, units)
    return row


def _summary(
    name: str, values: Mapping[int, float], units: Sequence[str], within: tuple[float, float] = (-1.0, 1.0)
) -> dict[str, float | None]:
    """Return mean and interval; no interval of a single unit."""
    over_units = summary(list(values.values()), [units[number] for number in values])
    return {
        name: over_units.mean,
        f"{name}_low": None if over_units.low is None else max(over_units.low, within[0]),
        f"{name}_high": None if over_units.high is None else min(over_units.high, within[1]),
    }


def scores_table(findings: Mapping[str, Any]) -> pa.Table:
    """Return a row for each method and probe, with the split, the sizes and the majority rate beside it."""
    common = {
        "label": findings["label"],
        "split": findings["split"]["how"],
        "n_classes": len(findings["data"]["neurons_of_class"]),
        "majority_rate": findings["majority_rate"],
        "reference": findings["reference"],
        "intervals_over": findings["intervals_over"],
    }
    columns = dict.fromkeys(name for row in findings["methods"] for name in row)
    rows = [common | {name: row.get(name) for name in columns} for row in findings["methods"]]
    return pa.Table.from_pylist(rows)


class NeuprintJob(LearnerJob[NeuprintSpec, NeuprintInputs]):
    """Trainings, sweeps and evaluations of NeuPRINT."""

    def read(self) -> NeuprintInputs:
        """Open and check recordings, labels and splits."""
        spec, folder = self.spec, self.folder
        refuse_missing(spec, folder)
        if "umap" in spec.methods:
            _refuse_without_umap()
        sources: dict[str, Any] = {
            "paths": [place_of(path, folder) for path in spec.recordings],
            "layout": spec.layout,
        }
        recordings = open_recordings(**sources)
        splits = _splits(spec, recordings)
        settings = _settings(spec, recordings)
        _refuse_unfit(recordings, settings)
        classes = np.where(splits[0].role == "excluded", "", recordings.labels(spec.label))
        self._refuse_few_neurons(recordings, splits, classes)
        notes = [*recordings.notes, *dict.fromkeys(note for split in splits for note in split.notes)]
        return NeuprintInputs(recordings, splits, classes, settings, sources, notes)

    def _refuse_few_neurons(self, recordings: Recordings, splits: Sequence[Split], classes: np.ndarray) -> None:
        """Raise where probes could not be chosen by cross-validation inside the training neurons."""
        from neurofleet.learners.folds import check_inner_folds
        from neurofleet.learners.neuprint.neuprint_model import animals_to_hold_out
        from neurofleet.learners.probes import FOLDS

        parts = [split.rows("train") for split in splits] if set(PROBED) & set(self.spec.methods) else []
        if not isinstance(self.spec, NeuprintEvaluateSpec):
            parts.append(np.flatnonzero(classes != ""))
        animals = recordings.labels("animal")
        for rows in parts:
            names, codes = np.unique(classes[rows].astype(str), return_inverse=True)
            groups = animals_to_hold_out(animals[rows], codes) if self.spec.mode == "cross" else None
            check_inner_folds(codes, groups, FOLDS, names.tolist())

    def epochs(self, inputs: NeuprintInputs) -> int:
        """Return the epochs of a training for each split, and of the model that is kept."""
        return self.trial_epochs(inputs) * (len(inputs.splits) + 1)

    def write_task(self, inputs: NeuprintInputs, task: "NeuprintTask", folder: Path, seed: int) -> dict[str, Any]:
        """Write a task; see `LearnerJob.write_task`."""
        return task.write(folder, inputs.sources, seed)

    def split_fingerprint(self, inputs: NeuprintInputs) -> str:
        """Return the fingerprint of all splits."""
        return fingerprint(inputs.splits)

    def train(self, run: LearnerRun[NeuprintInputs]) -> Trained:
        """Train for each split without its tested neurons and score probes; then fit all neurons."""
        from neurofleet.jobs.learners.embedding import write_neuron_embeddings
        from neurofleet.learners.neuprint.activity_examples import activity_examples

        inputs, out = run.inputs, run.out
        write_splits(out / SPLITS, inputs.splits)
        pieces = pieces_of(self.spec, inputs, out)
        for piece in pieces:
            if piece.settings is not None:
                with run.step(piece.title):
                    _train_piece(piece, inputs, run.trainings)
        do_missing(pieces, run.workers, run.console)
        with run.step("training with all neurons, and choosing what they are named by"):
            model = self._fit_all(inputs, run.trainings)
        run.trainings.write_history(out / HISTORY)
        with run.step("writing embeddings, their map, and examples of activity"):
            write_neuron_embeddings(out, model, inputs.recordings)
            examples = activity_examples(model, inputs.recordings, inputs.classes)
            pq.write_table(pa.Table.from_pandas(examples, preserve_index=False), out / EXAMPLES)
        findings = self._scores(run, pieces)
        if model.naming is not None:
            findings["naming"] = {"probe": model.naming.probe.kind, "tried": model.naming.tried}
        findings["layout"] = self.spec.layout
        history = pa.Table.from_pylist(run.trainings.history).to_pylist()
        return Trained(replace(model, facts=findings), NeuprintReport.of(findings, history))

    def _fit_all(self, inputs: NeuprintInputs, trainings: Trainings) -> "NeuprintModel":
        """Return the model that is kept: fitted to every neuron, or with single-animal to those of the animal.

        Its probe learns from all of these that have a class.
        """
        from neurofleet.learners.neuprint.neuprint_model import fit_naming
        from neurofleet.learners.neuprint.train_neuprint import fit

        spec, recordings = self.spec, inputs.recordings
        neurons, animals = np.arange(len(recordings.neurons)), recordings.labels("animal")
        if spec.mode == "single":
            neurons = np.flatnonzero(np.isin(animals, animals[inputs.splits[0].rows("test")]))
        model = fit(recordings, neurons, spec.chosen, trainings, spec.seed)
        kept_apart = animals if spec.mode == "cross" else None
        return replace(model, naming=fit_naming(model.phi, inputs.classes, kept_apart, spec.seed))

    def evaluate(self, run: LearnerRun[NeuprintInputs]) -> tuple[dict[str, Any], NeuprintReport]:
        """Compare methods on stored splits."""
        write_splits(run.out / SPLITS, run.inputs.splits)
        pieces = pieces_of(self.spec, run.inputs, run.out)
        do_missing(pieces, run.workers, run.console)
        findings = self._scores(run, pieces)
        return findings, NeuprintReport.of(findings, [])

    def _scores(self, run: LearnerRun[NeuprintInputs], pieces: list[NeuprintPiece]) -> dict[str, Any]:
        """Write predictions and scores of all methods; return scores and what they come from as plain JSON."""
        results = read_answers(pieces)
        findings = self._origin(run) | compared_methods(results, run.inputs, self.spec.mode)
        pq.write_table(predictions_table(results, run.inputs), run.out / PREDICTIONS)
        pq.write_table(scores_table(findings), run.out / SCORES)
        return findings

    def _origin(self, run: LearnerRun[NeuprintInputs]) -> dict[str, Any]:
        """Return what a job was made from, and with what, as plain JSON."""
        spec, inputs = self.spec, run.inputs
        recordings = inputs.recordings
        return {
            "name": spec.name,
            "label": spec.label,
            "preset": spec.preset,
            "dynamics": spec.chosen.dynamics,
            "inputs": {name: settings.seen for name, settings in inputs.settings.items()},
            "seed": spec.seed,
            "data": {
                "files": [name_of(path) for path in spec.recordings],
                "sha256": run.input_digests(spec.recordings),
                "animals": list(recordings.animals),
                "n_sessions": len(recordings.recordings),
                "n_neurons": len(recordings.neurons),
                "rate_hz": recordings.rates_hz,
                "n_labelled": inputs.n_labelled,
                "neurons_of_class": inputs.counts,
            },
            "split": {
                "how": spec.split,
                "animal": spec.animal,
                "split_of": spec.split_of,
                "seeds": spec.seeds,
                "n": len(inputs.splits),
                "fingerprint": fingerprint(inputs.splits),
            },
            "notes": inputs.notes,
            "versions": versions(),
        }

    def trial_epochs(self, inputs: NeuprintInputs) -> int:
        """Return the epochs of a training for the first split; the others have about as many."""
        return self._epochs_with(self.spec.chosen, inputs)

    def _epochs_with(self, settings: NeuprintSettings, inputs: NeuprintInputs) -> int:
        from neurofleet.learners.neuprint.dynamics_training import NeuprintTask

        neurons = trained_neurons(inputs.recordings, inputs.splits[0], self.spec.mode)
        return NeuprintTask(inputs.recordings, neurons, settings).epochs()

    def trial(self, trial: Trial) -> Mapping[str, float]:
        """Train on the neurons that the dynamics of the first split may see."""
        from neurofleet.learners.neuprint.dynamics_training import NeuprintTask

        inputs = self.read()
        neurons = trained_neurons(inputs.recordings, inputs.splits[0], self.spec.mode)
        task = NeuprintTask(inputs.recordings, neurons, self.spec.chosen)
        return trial.train(task, self.write_task(inputs, task, trial.folder, trial.seed)).metrics

    def inputs_after_sweep(self, inputs: NeuprintInputs, sweep: NeuprintSpec) -> NeuprintInputs:
        """Return the inputs with the best settings."""
        return replace(inputs, settings={"phi": self.spec.chosen}, notes=[*inputs.notes, CHOSEN_BY_SWEEP])

    def print_plan(self, inputs: NeuprintInputs, console: Console) -> float:
        """Print animals, neurons, classes, splits, and the time that a dynamics and its Phi take."""
        spec, recordings = self.spec, inputs.recordings
        console.print(_animals_table(spec, inputs))
        classes = ", ".join(f"{name} {n}" for name, n in inputs.counts.items())
        self.print_notes([*inputs.notes, f"{len(inputs.counts)} classes: {classes}."], console)
        fits = len(inputs.splits) + (not isinstance(spec, NeuprintEvaluateSpec))
        training_s = 0.0
        for name, settings in inputs.settings.items():
            epochs = self._epochs_with(settings, inputs)
            steps, epoch_s, phi_s = _measured(recordings, settings, spec.seed)
            training_s = epochs * epoch_s
            seen = ", ".join(settings.seen) or "the own past alone"
            self.print_notes(
                [
                    f"{name}: {settings.dynamics} of {seen}; {epochs} epoch{'s' if epochs > 1 else ''} of {steps}"
                    f" steps, {epoch_s:.2g} s each in this process, then"
                    f" {phi_s:.2g} s for the Phi of all neurons; {fits} times: about"
                    f" {duration(fits * (training_s + phi_s))}."
                ],
                console,
            )
        baselines = [name for name in spec.methods if name not in OF_PHI]
        if baselines:
            self.print_notes(
                [
                    f"Probes and {', '.join(baselines)} come on top, {len(inputs.splits)} times each; the run says"
                    " how long they take once one of each is done."
                ],
                console,
            )
        return training_s


def _train_piece(piece: NeuprintPiece, inputs: NeuprintInputs, trainings: Trainings) -> None:
    """Train for one split, without its validation and test neurons, and probe the Phi of all."""
    from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
    from neurofleet.learners.neuprint.train_neuprint import fitted

    assert piece.settings is not None
    case = piece.case(inputs.recordings, inputs.splits[piece.number])
    neurons = trained_neurons(inputs.recordings, case.split, piece.mode)
    task = NeuprintTask(inputs.recordings, neurons, piece.settings)
    weights = trainings(task, f"fold-{piece.number}-model", case.seed)
    if not piece.file.is_file():
        phi = fitted(task, weights, case.seed, placed=False).phi
        write_result(piece.file, piece.result_of_phi(case, phi))


def _animals_table(spec: NeuprintSpec, inputs: NeuprintInputs) -> Table:
    recordings = inputs.recordings
    animals = recordings.labels("animal")
    table = Table(title=f"{spec.name}: {spec.split}, {len(inputs.splits)} splits")
    for name in ("animal", "sessions", "frames", "neurons", f"with {spec.label}"):
        table.add_column(name, justify="left" if name == "animal" else "right")
    for animal in recordings.animals:
        sessions = [session for session in recordings.recordings if session.animal == animal]
        labelled = int(((animals == animal) & (inputs.classes != "")).sum())
        frames = f"{sum(session.n_frames for session in sessions):,}"
        table.add_row(animal, str(len(sessions)), frames, f"{int((animals == animal).sum()):,}", f"{labelled:,}")
    return table


def _splits(spec: NeuprintSpec, recordings: Recordings) -> list[Split]:
    options: dict[str, Any] = {"animal": spec.animal, "seeds": spec.seeds, "fewest": spec.least_neurons}
    if spec.split_of is None:
        return neuron_splits(recordings, spec.label, spec.mode, **options)
    return class_splits(recordings, spec.label, spec.split_of, spec.mode, **options)


def _settings(spec: NeuprintSpec, recordings: Recordings) -> dict[str, NeuprintSettings]:
    if not (isinstance(spec, NeuprintEvaluateSpec) and spec.ablation):
        return {"phi": spec.chosen}
    has_positions = all(recording.positions_um is not None for recording in recordings.recordings)
    if spec.ablation is True:
        return ablations(spec.chosen, has_positions)
    channels = spec.chosen.behaviour or recordings.recordings[0].behaviour_names
    return growing_inputs(spec.chosen, channels, has_positions)


def _refuse_unfit(recordings: Recordings, settings: dict[str, NeuprintSettings]) -> None:
    """Raise where recordings are too short, or lack what a dynamics is to see."""
    from neurofleet.learners.neuprint.session_tensors import frames_of, sessions_of

    richest = max(settings.values(), key=lambda each: len(each.parts))
    for session in sessions_of(recordings, richest):
        frames_of(session, richest)


def _refuse_without_umap() -> None:
    if importlib.util.find_spec("umap") is None:
        raise UsageError(
            "methods: umap needs the package umap-learn, which is not installed. Install it (pip install"
            " umap-learn), or leave umap out of `methods:`."
        )


def _measured(recordings: Recordings, settings: NeuprintSettings, seed: int) -> tuple[int, float, float]:
    """Return the steps of an epoch, its seconds, and those of inferring the Phi of all neurons."""
    from neurofleet.learners.neuprint.dynamics import dynamics_for
    from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
    from neurofleet.learners.neuprint.phi_inference import infer_phi
    from neurofleet.learners.neuprint.session_tensors import sessions_of

    neurons = np.arange(len(recordings.neurons))
    steps, step_s = _steps(NeuprintTask(recordings, neurons, settings), seed)
    sessions = sessions_of(recordings, settings)
    dynamics = dynamics_for(settings, len(sessions[0].names))
    measured = settings.inference_steps if settings.is_quadratic else MEASURED_STEPS
    started = time.thread_time()
    infer_phi(dynamics, sessions, neurons, settings.model_copy(update={"inference_steps": measured}), seed)
    return steps, steps * step_s, (time.thread_time() - started) * settings.inference_steps / measured


def _steps(task: "NeuprintTask", seed: int) -> tuple[int, float]:
    """Return how many steps an epoch has, and the seconds of one, from an epoch of a few neurons."""
    from neurofleet.learners.local_training import train_here
    from neurofleet.learners.neuprint.dynamics_training import MOMENT_STEPS, TrainingWindows, WorkerRank

    settings, sessions = task.settings, task.sessions
    short = settings.model_copy(update={"epochs": MEASURED_EPOCHS, "least_steps": 0})
    if settings.is_quadratic:
        task, steps = replace(task, settings=short), MOMENT_STEPS
        measured = steps
    else:
        every = [np.arange(len(session.numbers)) for session in sessions]
        steps = len(TrainingWindows(sessions, every, settings, WorkerRank(), seed))
        few = sessions[0].numbers[: settings.batch_neurons]
        task = replace(task, train_neurons=few, settings=short)
        rows = [np.flatnonzero(np.isin(one.numbers, few)) for one in task.sessions]
        measured = len(TrainingWindows(task.sessions, rows, settings, WorkerRank(), seed))
    ends: list[float] = []
    train_here(task, "plan", seed, lambda row: ends.append(time.thread_time()))
    return steps, (ends[-1] - ends[-2]) / measured
