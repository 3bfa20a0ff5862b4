"""Read and check all inputs of a fit before any simulation."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.input_paths import here
from neurofleet.jobs.fit.fit_job import QUICK_OFFSPRING, CellSpec, FitSpec
from neurofleet.jobs.fit.fit_problem import HANDED_ON, CellSubject, StagePlan, Subject, UserSubject, finalists
from neurofleet.jobs.fit.recorded_steps import recorded_steps
from neurofleet.neurosim.cells.cell_model import reversal_notes
from neurofleet.neurosim.cells.morphology_check import check_axon, check_morphologies
from neurofleet.neurosim.cells.morphology_measures import MorphologySummary
from neurofleet.neurosim.cells.recipe import BY_DENDRITE, Recipe, Stage, load_recipe
from neurofleet.neurosim.cells.stage_bounds import next_stage_bounds
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.evolution import (
    FastConfig,
    MultiObjectiveCMAESConfig,
    PaperConfig,
    ParameterSpace,
    ParetoConfig,
    SteadyConfig,
    read_warm_start,
)
from neurofleet.neurosim.features.published_targets import read_bounds, read_targets
from neurofleet.neurosim.features.step_protocols import TargetSet, group_sweeps, is_trained
from neurofleet.neurosim.features.training_targets import (
    SPIKE_COUNT,
    fit_note,
    passive_targets,
    perisomatic_targets,
    training_targets,
)
from neurofleet.neurosim.mechanisms import UserMechanisms, nmodl_files
from neurofleet.neurosim.recordings.recording import Recording, RecordingSource
from neurofleet.neurosim.recordings.recording_table import HELD_OUT, RecordingTable


def job_mechanisms(spec: FitSpec, folder: Path) -> UserMechanisms:
    """Return those of the folder `mechanisms:` that the recipe names, for whatever kind of dendrite.

    They are the same for all cells of the job, so that one process can simulate several of them.

    Raises
    ------
    UsageError
        The folder cannot be used, holds nothing that the recipe names, or a mechanism that NEURON has
        built in and the recipe names.
    InputError
        The recipe cannot be used.
    """
    if spec.mechanisms is None:
        return UserMechanisms()
    try:
        all_of_them = UserMechanisms.read(folder / spec.mechanisms)
    except InputError as error:
        raise UsageError(f"mechanisms: {error}") from error
    known = all_of_them.known
    dendrites = list(BY_DENDRITE.get(spec.recipe, ["spiny"]))
    recipes = [load_recipe(spec.recipe, dendrite, folder, known, all_of_them.unfit) for dendrite in dendrites]
    named = {name for recipe in recipes for name in recipe.mechanism_names}
    if refused := [f"mechanism {name} {all_of_them.unfit[name]}" for name in sorted(named & all_of_them.unfit.keys())]:
        raise UsageError(f"mechanisms: {spec.mechanisms}: {'; '.join(refused)}.")
    user_mechanisms = all_of_them.only(named)
    if not user_mechanisms.sources:
        raise UsageError(
            f"mechanisms: the recipe {spec.recipe} names no mechanism of {spec.mechanisms} "
            f"({', '.join(all_of_them.files)}), but {', '.join(sorted(named))}. Name them in a recipe of "
            "your own (`recipe: FILE.yaml`), or leave `mechanisms:` out."
        )
    return user_mechanisms


def mechanism_notes(user_mechanisms: UserMechanisms, recipe: "Recipe", folder: Path | None) -> tuple[str, ...]:
    """Return notes on a cell: none of the job's mechanisms in its recipe, some that replace ours, odd units."""
    used = user_mechanisms.only(recipe.mechanism_names)
    if user_mechanisms.sources and not used.sources:
        return (f"none of the mechanisms in {folder} is named by its recipe {recipe.name}",)
    notes = used.unit_notes()
    if used.replacing:
        is_or_are = "mechanism {} is" if len(used.replacing) == 1 else "mechanisms {} are"
        notes.insert(0, f"{is_or_are.format(', '.join(used.replacing))} the job's own, from {folder}")
    return tuple(notes)


USER_STAGE = "fit"
PERISOMATIC = "perisomatic"  # the recipe that is chosen by the width of spikes
PAPER_GENERATIONS, PAPER_GENERATIONS_LAST = 50, 200


def prepare(
    spec: FitSpec,
    folder: Path,
    only: Collection[str] | None = None,
    *,
    keep_recordings: bool = True,
    print_line: Callable[[str], None] = lambda text: None,
) -> list[Subject]:
    """Return what the job fits; relative paths start at `folder`.

    Parameters
    ----------
    only : collection of str, optional
        The cells to read; of the others it is only checked that their files exist.
    keep_recordings : bool
        Whether subjects hold their recordings, which are large and which only pictures ask for.
    print_line : callable
        Gets a line that says which cell is being read, when there are several.

    Raises
    ------
    UsageError
        The faults of all cells at once, each with its file and what to do.
    """
    if spec.evaluator is not None:
        return [_user_subject(spec, folder)]
    problems: list[str] = []
    subjects: list[Subject] = []
    requested = [cell.id for cell in spec.cells or () if only is None or cell.id in only]
    user_mechanisms = job_mechanisms(spec, folder)
    summaries: dict[str, MorphologySummary | InputError] = {}
    if requested:
        try:
            user_mechanisms.compile()
        except InputError as error:
            raise UsageError(f"mechanisms: {spec.mechanisms}: {error}") from error
    for cell in spec.cells or ():
        try:
            if cell.id in requested:
                if len(requested) > 1:
                    summaries = summaries or _morphologies(spec, folder, requested)
                    print_line(f"reading the input of {cell.id}, {len(subjects) + 1} of {len(requested)} …")
                subjects.append(
                    prepare_cell(cell, spec, folder, user_mechanisms, keep_recordings, summaries.get(cell.id))
                )
                check_budgets(subjects[-1])
            else:
                _check_files(cell, folder)
        except InputError as error:
            problems.append(f"cell {cell.id}: {error}")
    if problems:
        raise UsageError("\n".join(problems))
    return subjects


def _morphologies(spec: FitSpec, folder: Path, requested: Collection[str]) -> dict[str, MorphologySummary | InputError]:
    """Return what is made of the morphologies of several cells, which one process reads."""
    cells = [cell for cell in spec.cells or () if cell.id in requested]
    places = {cell.id: here(cell.morphology, folder) for cell in cells}
    paths = list(dict.fromkeys(places.values()))
    made = dict(zip(paths, check_morphologies(paths), strict=True))
    return {id: made[place] for id, place in places.items()}


def check_warm_start(spec: FitSpec, folder: Path, subjects: Sequence[Subject]) -> None:
    """Raise `InputError` when the job names a warm start that a subject cannot start from."""
    if spec.warm_start is not None and subjects:
        subject = subjects[0]
        last = subject.problem(len(subject.stages) - 1, None)
        space = ParameterSpace.from_bounds(last.names, np.array(last.lower), np.array(last.upper))
        read_warm_start(folder / spec.warm_start, space, exclude_cell=subject.id)


def cell_ids(spec: FitSpec) -> list[str]:
    """Return the ids of what the job fits, in its order; a user's own evaluator counts as one cell."""
    return [spec.name] if spec.cells is None else [cell.id for cell in spec.cells]


def _check_files(cell: CellSpec, folder: Path) -> None:
    for key in ("morphology", "recordings", "targets"):
        path = getattr(cell, key)
        if path is not None and not here(path, folder).exists():
            raise InputError(f"{key}: {path} does not exist. {_where(folder)}")


def stage_plans(spec: FitSpec, folder: Path) -> dict[str, tuple[StagePlan, ...]]:
    """Return cell -> stages of its recipe; its data, which may leave some out, are not read."""
    if spec.cells is None:
        return {spec.name: _stage_plans(spec, {USER_STAGE: None})}
    known = job_mechanisms(spec, folder).known
    plans = {}
    for dendrite in {cell.dendrite for cell in spec.cells}:
        stages = load_recipe(spec.recipe, dendrite, folder, known).stages
        plans[dendrite] = tuple(
            plan.for_engine("neuron" if spec.engine == "neuron" else "vector")
            for plan in _stage_plans(spec, _scored_on(stages))
        )
    return {cell.id: plans[cell.dendrite] for cell in spec.cells}


def run_parameters(spec: FitSpec, folder: Path) -> tuple[str, ...]:
    """Return the parameters of all cells of the job, searched or fixed, in the order of their recipes.

    Empty with an evaluator of the user's own, whose parameters are those of its only cell.
    """
    if spec.cells is None:
        return ()
    known = job_mechanisms(spec, folder).known
    names: dict[str, None] = {}
    for dendrite in dict.fromkeys(cell.dendrite for cell in spec.cells):
        recipe = load_recipe(spec.recipe, dendrite, folder, known)
        last = len(recipe.stages) - 1
        names |= dict.fromkeys([*recipe.bounds_until(last, True), *recipe.fixed_until(last, True)])
    return tuple(names)


def input_files(spec: FitSpec, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each input file, by the name it has in the job.

    Raises
    ------
    UsageError
        One is not there.
    """
    named: list[tuple[str, str | Path | None]] = [("mechanisms", spec.mechanisms)]
    for cell in spec.cells or ():
        user_mechanisms = {"morphology": cell.morphology, "recordings": cell.recordings, "targets": cell.targets}
        named += [(f"cell {cell.id}: {key}", path) for key, path in user_mechanisms.items()]
    if spec.recipe.endswith((".yaml", ".yml")):
        named.append(("recipe", Path(spec.recipe)))
    if spec.warm_start is not None:  # of a run, only what a fit starts from
        halls = spec.warm_start / "hall_of_fame"
        named.append(("warm_start", halls if (folder / halls).is_dir() else spec.warm_start))
    named += [("files", path) for path in spec.files or ()]
    sha256: dict[str, str] = {}
    for key, path in named:
        if path is None:
            continue
        place = here(path, folder)
        if not place.exists():
            raise UsageError(f"{key}: {path} does not exist. {_where(folder)}")
        for file in _files(key, place):
            name = str(path) if file == place else f"{path}/{file.relative_to(place)}"
            sha256[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return sha256


def _where(folder: Path) -> str:
    return f"Paths start at the job file's folder, {folder}; correct it."


def _files(key: str, path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    # Of mechanisms only what is compiled: NEURON's nrnivmodl leaves much more in such a folder.
    return nmodl_files(path) if key == "mechanisms" else sorted(file for file in path.rglob("*") if file.is_file())


def prepare_cell(
    cell: CellSpec,
    spec: FitSpec,
    folder: Path,
    user_mechanisms: UserMechanisms,
    keep_recording: bool = False,
    morphology: MorphologySummary | InputError | None = None,
) -> CellSubject:
    """Return one cell's morphology, targets and stages; its recording, which is large, only with `keep_recording`.

    Parameters
    ----------
    user_mechanisms : UserMechanisms
        Those of the job, as `job_mechanisms` returns them.
    morphology : MorphologySummary or InputError, optional
        What was made of its morphology, if that was read before.

    Raises
    ------
    InputError
        One of its files cannot be used.
    UsageError
        The recipe, or a stage that the job names, does not exist.
    """
    recipe = load_recipe(spec.recipe, cell.dendrite, folder, user_mechanisms.known)
    _check_stage_names(spec, [stage.name for stage in recipe.stages])
    axon = cell.axon or recipe.axon
    if morphology is None:
        (morphology,) = check_morphologies([here(cell.morphology, folder)])
    if isinstance(morphology, InputError):
        raise morphology
    summary = morphology
    check_axon(summary, axon)
    recording, stage_targets, own_bounds = _targets(cell, recipe, folder)
    numbers = tuple(stage_targets)
    warnings = file_notes(cell.morphology, summary, recording)
    warnings += mechanism_notes(user_mechanisms, recipe, spec.mechanisms)
    last = len(recipe.stages) - 1
    warnings += tuple(
        reversal_notes(
            recipe.mechanisms_until(last, summary.has_apical),
            [*recipe.bounds_until(last, summary.has_apical), *recipe.fixed_until(last, summary.has_apical)],
            recipe.conditions.conditions(),
            user_mechanisms.known,
        )
    )
    warnings += tuple(w for targets in stage_targets.values() for w in targets.warnings)
    if spec.recipe == PERISOMATIC and recording is not None:
        warnings += tuple(filter(None, [fit_note(recording, cell.dendrite, recipe.name)]))
    for number, stage in enumerate(recipe.stages):
        if number not in stage_targets:
            warnings += (f"stage {stage.name} is left out: {cell.targets} has no targets for it",)
    recorded = None
    if recording is not None and not keep_recording and numbers:
        recorded = recorded_steps(recording, stage_targets[numbers[-1]].protocols.values())
    return CellSubject(
        id=cell.id,
        summary=summary,
        axon=axon,
        recipe=recipe,
        stages=_stage_plans(spec, _scored_on([recipe.stages[number] for number in numbers])),
        stage_numbers=numbers,
        targets=tuple(stage_targets.values()),
        own_bounds=own_bounds,
        recording=recording if keep_recording else None,
        junction_potential_mV=cell.junction_potential_mV,
        warnings=tuple(dict.fromkeys(warnings)),
        own_mechanisms=user_mechanisms,
        recording_table=None if recording is None else recording_table(recording, recipe, stage_targets),
        recorded=recorded,
    )


def file_notes(morphology: str, summary: MorphologySummary, recording: Recording | None) -> tuple[str, ...]:
    """Return what looks odd about the morphology and the recording of a cell."""
    notes = [f"{morphology}: {said}" for said in (*summary.notes, *summary.warnings)]
    if recording is not None:
        notes += [f"{recording.path.name}: {warning}" for warning in recording.warnings]
    return tuple(notes)


Box = Mapping[str, tuple[float, float]]


def check_budgets(subject: Subject) -> None:
    """Raise `InputError` for the stages whose evaluations do not make one generation."""

    def box(number: int, winner: Mapping[str, float] | None) -> Box:
        problem = subject.problem(number, winner)
        return dict(zip(problem.names, zip(problem.lower, problem.upper, strict=True), strict=True))

    _refuse_small_budgets(subject.stages, box)


def check_budgets_of_recipe(spec: FitSpec, folder: Path) -> None:
    """Refuse budgets of which the recipe alone tells that they are too small, before a job is sent anywhere.

    Cells are taken as if they had no apical dendrite, which has parameters of its own.

    Raises
    ------
    UsageError
    """
    cells = [cell for cell in spec.cells or () if cell.recordings is not None]
    needed = [spec.recipe] if spec.recipe.endswith((".yaml", ".yml")) else []
    needed += [str(spec.mechanisms)] if spec.mechanisms is not None else []
    if not cells or not all(here(path, folder).exists() for path in needed):  # paths of the cluster
        return
    known = job_mechanisms(spec, folder).known
    for dendrite in dict.fromkeys(cell.dendrite for cell in cells):
        recipe = load_recipe(spec.recipe, dendrite, folder, known)
        names = [stage.name for stage in recipe.stages]
        _check_stage_names(spec, names)

        def box(number: int, winner: Mapping[str, float] | None, recipe: Recipe = recipe) -> Box:
            bounds = recipe.bounds_until(number, False)
            own = recipe.stages[number].hand_over
            return bounds if winner is None else next_stage_bounds(bounds, winner, recipe.hand_over, own)[0]

        try:
            _refuse_small_budgets(_stage_plans(spec, _scored_on(recipe.stages)), box)
        except InputError as error:
            raise UsageError(str(error)) from error


def _refuse_small_budgets(stages: Sequence[StagePlan], box: Callable[[int, Mapping[str, float] | None], Box]) -> None:
    """Raise `InputError` for small budgets; `box` returns the bounds of a stage after a winner of the one before."""
    winner: dict[str, float] | None = None
    faults = []
    for number, stage in enumerate(stages):
        bounds = box(number, winner)
        if isinstance(stage.search, FastConfig):
            needed = stage.search.smallest_budget(len(bounds))
            if needed > stage.search.evaluations:
                faults.append(
                    f"evolution.evaluations: stage {stage.name} has {stage.search.evaluations}, and one generation of "
                    f"its {len(bounds)} parameters takes {needed}: write `evaluations: {{{stage.name}: "
                    f"{needed}}}` or more, or a smaller `offspring:`"
                )
        winner = {**(winner or {}), **{name: (low + high) / 2 for name, (low, high) in bounds.items()}}
    if faults:
        raise InputError("; ".join(faults) + ".")


def length_notes(spec: FitSpec, subjects: Sequence[Subject]) -> list[str]:
    """Return what the stages get that the job does not name beside others that it does."""
    evolution = spec.evolution
    key = "generations" if evolution.strategy == "paper" else "evaluations"
    given = getattr(evolution, key)
    lengths = {stage.name: getattr(stage.search, key) for subject in subjects for stage in subject.stages}
    if spec.quick:
        return [
            f"evolution.{key}: {', '.join(f'{name} {length}' for name, length in lengths.items())}, for a quick run"
        ]
    left = [f"{name} {length}" for name, length in lengths.items() if given and name not in given]
    return [f"evolution.{key}: not named, so as by default: {', '.join(left)}"] if left else []


def recording_table(recording: Recording, recipe: Recipe, stage_targets: Mapping[int, TargetSet]) -> RecordingTable:
    """Return which sweep is a target of which stages, and which are held out, with notes that say why."""
    trained = [step for targets in stage_targets.values() for step in targets.protocols.values() if step.sweeps]
    roles: dict[int, list[str]] = {
        sweep.number: [HELD_OUT]
        for step, sweeps in group_sweeps(recording)
        if not is_trained(step, trained)
        for sweep in sweeps
    }
    notes = [_steps_taken(recipe.stages[number], targets) for number, targets in stage_targets.items()]
    if roles:
        notes.append(f"{len(roles)} sweeps of other steps are held out: `kind: validate` scores the models at them")
    for number, targets in stage_targets.items():
        stage = recipe.stages[number].name
        for sweep in {sweep for protocol in targets.protocols.values() for sweep in protocol.sweeps}:
            roles.setdefault(sweep, []).append(stage)
    table = recording.table.used_for(roles)
    return replace(table, notes=(*table.notes, *notes))


def _steps_taken(stage: Stage, targets: TargetSet) -> str:
    """Say which steps of the recording a stage is scored at, and why these."""
    what = {
        "subthreshold": "the steps without a spike in any repeat",
        "training": "the two strongest steps with spikes",
        "perisomatic": "the weakest step of steady firing at 39 pA or more above rheobase",
    }[stage.targets]
    if stage.targets == "training" and SPIKE_COUNT in stage.features:
        what += ", and for the number of spikes rheobase and the strongest depolarising step without spikes"
    steps = sorted({round(1000 * step.amplitude_nA, 1) for step in targets.protocols.values() if step.sweeps})
    return f"stage {stage.name} takes {what}: {', '.join(f'{step:g}' for step in steps)} pA"


def _targets(
    cell: CellSpec, recipe: "Recipe", folder: Path
) -> "tuple[Recording | None, dict[int, TargetSet], dict[str, tuple[float, float]]]":
    """Return the recording, the targets of each stage that can be scored, and bounds that came with them."""
    if cell.targets is not None:
        if any(stage.targets == "perisomatic" for stage in recipe.stages):
            raise InputError(
                f"recipe {recipe.name} is scored on a sweep of its own choice: expected `recordings:`, found"
                f" `targets: {cell.targets}`, which has other e-features"
            )
        published = read_targets(folder / cell.targets)
        training = [n for n, stage in enumerate(recipe.stages) if stage.targets == "training"]
        if not training:
            raise InputError(f"recipe {recipe.name}: no stage with `targets: training`, which {cell.targets} has")
        return None, {n: published for n in training}, read_bounds(folder / cell.targets)
    source = recording_source(cell, folder)
    assert source is not None
    recording = source.read()
    targets = {}
    for number, stage in enumerate(recipe.stages):
        if stage.targets == "perisomatic":
            targets[number] = perisomatic_targets(recording, stage.features, block_check=stage.block_check)
        else:
            extract = passive_targets if stage.targets == "subthreshold" else training_targets
            targets[number] = extract(recording, stage.features)
    return recording, targets, {}


def recording_source(cell: CellSpec, folder: Path) -> RecordingSource | None:
    """Return where a cell's recording is and how it is read, None where it is fitted to published targets."""
    if cell.recordings is None:
        return None
    return RecordingSource(
        here(cell.recordings, folder),
        cell.junction_potential_mV,
        tuple(cell.stimuli),
        tuple(cell.exclude_sweeps),
        cell.electrode,
        cell.bias_current,
        cell.spike_threshold_mV,
        cell.current,
        cell.window_ms,
    )


def _user_subject(spec: FitSpec, folder: Path) -> UserSubject:
    assert spec.evaluator is not None
    _check_stage_names(spec, [USER_STAGE])
    mechanisms = None if spec.mechanisms is None else str((folder / spec.mechanisms).resolve())
    model = UserModel(spec.evaluator, str(folder.resolve()), mechanisms)
    try:
        description = model.describe()
    except InputError as error:
        raise UsageError(str(error)) from error
    subject = UserSubject(spec.name, model, description, _stage_plans(spec, {USER_STAGE: None}), model.notes())
    check_budgets(subject)
    return subject


def _scored_on(stages: Sequence[Stage]) -> dict[str, str | None]:
    """Return stage -> its kind of targets."""
    return {stage.name: stage.targets for stage in stages}


def _stage_plans(spec: FitSpec, stages: Mapping[str, str | None]) -> tuple[StagePlan, ...]:
    """Return one plan a stage: all seeds in the last, the first seed in those before.

    `stages` has for each name its kind of targets, None for an evaluator of the user's own. The vector engine searches
    subthreshold stages with all seeds: an evaluation takes milliseconds, and one seed may end in a local minimum.
    """
    seeds = tuple(spec.evolution.seeds)
    plans = []
    for i, (name, targets) in enumerate(stages.items()):
        last = i == len(stages) - 1
        search = _search(spec, name, first=i == 0, last=last)
        plan = StagePlan(name, seeds if last else seeds[:1], search)
        final = finalists(spec.evolution.hall_of_fame, 0 if spec.quick else search.planned_evaluations)
        if targets == "subthreshold":
            plan = replace(plan, vector_seeds=seeds, vector_finalists=final if last else min(final, HANDED_ON))
        elif targets is not None:
            plan = replace(plan, finalists=final)
        plans.append(plan)
    return tuple(plans)


def _search(spec: FitSpec, stage: str, *, first: bool, last: bool) -> "PaperConfig | FastConfig":
    evolution = spec.evolution
    if evolution.strategy == "paper":
        generations = PAPER_GENERATIONS_LAST if last else PAPER_GENERATIONS
        return PaperConfig(
            offspring=evolution.offspring or PaperConfig.offspring,
            generations=evolution.generations.get(stage, generations),
            tolerance=evolution.kept_within,
        )
    make: Callable[..., FastConfig] = SteadyConfig if evolution.mode == "steady" else FastConfig
    if evolution.strategy == "mo-cma-es":
        make = MultiObjectiveCMAESConfig
    elif evolution.strategy != "fast":
        make = partial(ParetoConfig, selector=evolution.strategy)
    offspring = evolution.offspring
    if spec.quick and offspring and not last:
        offspring = min(offspring, QUICK_OFFSPRING)
    return make(
        evaluations=spec.evaluations_of(stage, first=first, last=last),
        offspring=offspring,
        tolerance=evolution.kept_within,
    )


def _check_stage_names(spec: FitSpec, names: list[str]) -> None:
    lengths = "generations" if spec.evolution.strategy == "paper" else "evaluations"
    for name in getattr(spec.evolution, lengths):
        if name not in names:
            raise UsageError(
                f"evolution.{lengths}: no stage {name!r}{did_you_mean(name, names)}; the stages are {', '.join(names)}."
            )
