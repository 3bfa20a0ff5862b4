"""The job file of a fit: its keys and their defaults, and tables of many cells."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from neurofleet.cluster.metric_loggers import LoggerName
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.faults import faults, place_in_words
from neurofleet.input_paths import has_pattern, is_url, matching, with_home
from neurofleet.jobs.job_file import (
    DataPath,
    JobSpec,
    Label,
    LocalPath,
    Name,
    Positive,
    PositiveInt,
    RecipeName,
    Strict,
)
from neurofleet.neurosim.cells.morphology_readers import ending_of
from neurofleet.neurosim.evolution.diverse_selection import DEFAULT_TOLERANCE
from neurofleet.neurosim.file_endings import MORPHOLOGY_SUFFIXES

FROM, GLOB = "from", "glob"
FILES = ("morphology", "recordings", "targets")
LISTS = ("stimuli", "exclude_sweeps", "window_ms")
LIST_SEPARATOR = ";"
FAULTS_SHOWN = 20

Row = dict[str, Any]


def expand_cells(cells: Mapping[str, Any], folder: Path, model: type[BaseModel], source: str) -> list[Row]:
    """Return one mapping a cell, as if each stood in the job file.

    Parameters
    ----------
    cells : mapping
        What the job file has below ``cells:``: ``from`` (a CSV or Parquet file with a row a cell) or ``glob``
        (a pattern of recordings), and keys that all its cells share. A cell's own value goes first.
    folder : Path
        Where relative paths start: the job file's folder, also for paths that stand in the table.
    model : type
        What a cell may have.
    source : str
        The job file, for messages.

    Raises
    ------
    UsageError
        The table or the pattern names no cells, or has faults: all of them, each with its row.
    """
    shared = {key: value for key, value in cells.items() if key not in (FROM, GLOB)}
    if (FROM in cells) == (GLOB in cells):
        raise UsageError(
            f"{source}: cells: expected a list of cells, `from:` (a CSV or Parquet file) or `glob:` (a"
            f" pattern of recordings), found {', '.join(cells) or 'nothing'}."
        )
    way = FROM if FROM in cells else GLOB
    if not isinstance(cells[way], str) or not cells[way]:
        expected = "the name of a CSV or Parquet file" if way == FROM else "a pattern such as cells/*.nwb"
        raise UsageError(f"{source}: cells.{way}: expected {expected}, found {cells[way]!r}.")
    known = list(model.model_fields)
    if strange := [key for key in shared if key not in known]:
        raise UsageError(f"{source}: cells: unknown key {_with_nearest(strange, known)}.")
    place = f"{source}: cells.{way} {cells[way]}"
    if way == FROM:
        rows = _read_table(folder / with_home(cells[FROM]), place)
        if strange := list(dict.fromkeys(key for row in rows.values() for key in row if key not in known)):
            raise UsageError(
                f"{place}: unknown column {_with_nearest(strange, known)}. A row is a cell; its columns are"
                f" {', '.join(known)}."
            )
    else:
        rows = _match(cells[GLOB], folder, shared, place)
    if not rows:
        expected = "a row for each cell below the header" if way == FROM else "at least one recording"
        raise UsageError(f"{place}: no cells found in {folder}. Expected {expected}.")
    rows = {where: shared | row for where, row in rows.items()}
    _check(rows, model, place, "" if way == FROM else "; name the cells in a table with `from:`")
    return list(rows.values())


def _with_nearest(keys: list[str], known: list[str]) -> str:
    return ", ".join(f"{key!r}{did_you_mean(key, known)}" for key in keys)


def _check(rows: Mapping[str, Row], model: type[BaseModel], place: str, advice: str) -> None:
    """Tell the faults of each row by where it stands."""
    lines = []
    first: dict[Any, str] = {}
    for where, row in rows.items():
        try:
            model.model_validate(row)
        except ValidationError as error:
            lines.append(f"{where}: {faults(error, model, whole='the cell', content=row)}")
            continue
        if row["id"] in first:
            lines.append(f"{where}: has the id {row['id']} of {first[row['id']]}, expected another{advice}")
        first.setdefault(row["id"], where)
    if lines:
        more = [f"and {len(lines) - FAULTS_SHOWN} more"] if len(lines) > FAULTS_SHOWN else []
        raise UsageError("\n".join([f"{place}:", *lines[:FAULTS_SHOWN], *more]))


def _read_table(path: Path, place: str) -> dict[str, Row]:
    """Return where a row stands -> its values; empty ones are left out."""
    try:
        rows = _read_parquet(path, place) if path.suffix == ".parquet" else _read_csv(path, place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{place}: cannot be read ({error}). Expected a CSV or Parquet file; its path starts at the job"
            " file's folder."
        ) from error
    return {
        where: {key: _value(key, value) for key, value in row.items() if not _is_empty(value)}
        for where, row in rows.items()
    }


def _read_parquet(path: Path, place: str) -> dict[str, Row]:
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except pa.ArrowException as error:
        raise UsageError(f"{place}: not readable as Parquet ({error}).") from error
    return {f"row {number}": row for number, row in enumerate(rows, 1)}


def _read_csv(path: Path, place: str) -> dict[str, Row]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        if doubled := sorted({name for name in header if header.count(name) > 1}):
            raise UsageError(f"{place}: more than one column is called {', '.join(map(repr, doubled))}.")
        rows = {}
        for values in reader:
            if not any(values):
                continue
            if len(values) != len(header):
                raise UsageError(
                    f"{place}: line {reader.line_num} has {len(values)} values, and the header names"
                    f" {len(header)} columns. Quote values with commas in them; separate lists by"
                    f" {LIST_SEPARATOR!r}."
                )
            rows[f"line {reader.line_num}"] = dict(zip(header, map(str.strip, values), strict=True))
    return rows


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN is an empty cell of a table of numbers


def _value(key: str, value: Any) -> Any:
    if key in LISTS and isinstance(value, str):
        return [part.strip() for part in value.split(LIST_SEPARATOR) if part.strip()]
    return str(value) if key == "id" else value


def _match(pattern: str, folder: Path, shared: Mapping[str, Any], place: str) -> dict[str, Row]:
    """Return recordings -> a cell of their name, with the morphology beside them."""
    start = with_home(pattern)
    top = Path(start.anchor) if start.is_absolute() else folder
    try:
        recordings_found = sorted(path for path in top.glob(str(start.relative_to(start.anchor))) if path.is_file())
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{place}: is not a pattern of files ({error}).") from error
    rows = {}
    for path in recordings_found:
        recordings = path if start.is_absolute() else path.relative_to(folder)
        row = {"id": path.stem, "recordings": str(recordings)}
        if "morphology" not in shared:
            row["morphology"] = str(recordings.parent / _morphology_of(path, place))
        rows[str(recordings)] = row
    return rows


def _morphology_of(recordings: Path, place: str) -> str:
    """The morphology of the same name beside the recordings, or the only one there."""
    beside = sorted(
        path for path in recordings.parent.iterdir() if ending_of(path) in MORPHOLOGY_SUFFIXES and path != recordings
    )
    same = [path for path in beside if path.name.lower().startswith(f"{recordings.stem.lower()}{ending_of(path)}")]
    text = [path for path in beside if ending_of(path) != ".h5"]  # which may hold anything
    candidates = [path for path in same if path in text] or same or text or beside
    if len(candidates) != 1:
        names = ", ".join(path.name for path in beside) or "none"
        raise UsageError(
            f"{place}: {recordings} needs one morphology beside it, {recordings.stem}.swc, .asc or .h5 or the only"
            f" one in its folder; found {names}. Rename it, or name the cells in a table with `from:`."
        )
    return candidates[0].name


ElectrodeName = Annotated[Label, Field(min_length=1)]


def _forwards(window_ms: tuple[float, float]) -> tuple[float, float]:
    if not window_ms[0] < window_ms[1]:
        raise ValueError("expected the time at which the part begins and a later one at which it ends")
    return window_ms


WindowMs = Annotated[tuple[Annotated[float, Field(ge=0)], Positive], AfterValidator(_forwards)]
"""The part of each sweep that is read."""


def _with_files(cell: Any, folder: Path, place: str) -> Any:
    """Return a cell of a job file with patterns replaced by the one file that each matches."""
    if not isinstance(cell, dict):
        return cell
    found = {}
    for key in FILES:
        if isinstance(cell.get(key), str) and has_pattern(cell[key]):
            matches = matching(cell[key], folder)
            if len(matches) > 1:
                listed = ", ".join(matches[:5]) + (", …" if len(matches) > 5 else "")
                raise UsageError(
                    f"{place}: {key}: expected one file, {cell[key]} matches {len(matches)}: {listed}. Name one of"
                    " them; many cells are named by `cells: {glob: ...}` or by a table."
                )
            found[key] = matches[0]
    return cell | found


def _module_and_function(evaluator: str) -> str:
    if not re.fullmatch(r"[\w.]+:[\w.]+", evaluator):
        raise ValueError("expected a module and a function in it, such as `model:make_evaluator`")
    return evaluator


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


_OneOrMore = BeforeValidator(
    lambda given: [given] if _is_whole(given) else given, json_schema_input_type=int | list[int]
)


class RecordingSpec(Strict):
    """Which sweeps of a recording are used, and how they are read."""

    stimuli: Annotated[list[str], Field(min_length=1)] = ["Long Square"]
    """Names or patterns of the stimuli whose sweeps are used. The passive and ih stages use every step without a spike,
    also near rheobase.
    """
    exclude_sweeps: Annotated[list[int], _OneOrMore] = []
    """Numbers of sweeps to leave out."""
    electrode: ElectrodeName | None = None
    """Name or pattern of the electrode, where the recording has several."""
    bias_current: Literal["add", "ignore"] | None = None
    """What is done about a bias current that the recording has: `add` it to the recorded current or `ignore` it. By
    default it is added, unless the recorded current has it already.
    """
    current: Literal["command", "recorded"] | None = None
    """Which current is used where a file has both: the `command` or the `recorded` one."""
    spike_threshold_mV: Annotated[float, Field(ge=-80, le=40)] | None = None
    """The voltage that a spike rises above, in mV; by default -20 mV, or lower for a cell whose spikes are small."""
    window_ms: WindowMs | None = None
    """The part of each sweep that is read, `[FROM, TO]` in ms, where a sweep has several steps."""


class CellSpec(RecordingSpec):
    """One cell: its morphology, and recordings (or published targets) to fit it to.

    Hosts' time is shared by weight between groups (`weights:` of the job), cells with a `weight` of their
    own, and all others together, which have weight 1. Within each, cells are served in the order of the job.
    """

    id: Name
    """The name of the cell in tables, files and messages."""
    morphology: DataPath
    """The morphology: SWC, ASC or MorphIO's HDF5, a path or a URL."""
    recordings: DataPath | None = None
    """The recording: NWB 2, the Allen NWB 1.x layout, ABF and others, a path or a URL; a folder of files is one
    recording.
    """
    targets: LocalPath | None = None
    """A folder with `features.json` and `protocols.json`, in place of `recordings:`."""
    dendrite: Literal["spiny", "aspiny"] = "spiny"
    """Type of the dendrites; chooses between the spiny and the aspiny form of a recipe that has both."""
    junction_potential_mV: float = 14.0
    """Liquid-junction potential in mV, subtracted from the recorded voltage."""
    axon: Literal["stub", "legacy-stub", "legacy-stub-60um", "full"] | None = None
    """What becomes of the reconstructed axon: replaced by a stub (`stub`, `legacy-stub`, `legacy-stub-60um`) or kept
    (`full`). By default the recipe decides.
    """
    group: Name | None = None
    """The group whose share of the hosts the cell belongs to; see `weights`."""
    weight: Positive | None = None
    """The cell's own share of the hosts, in relation to those of groups and of other cells with a weight."""

    @model_validator(mode="after")
    def _one_share(self) -> "CellSpec":
        if self.group is not None and self.weight is not None:
            raise ValueError("give a cell a `group:` (and the group a weight with `weights:`) or a `weight:`")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> "CellSpec":
        if (self.recordings is None) == (self.targets is None):
            raise ValueError("name either `recordings:` (NWB, ABF ...) or `targets:` (a folder), one of the two")
        return self


MOST_SEEDS = 1000
"""A larger number is no number of seeds."""


FAST_EVALUATIONS, FAST_EVALUATIONS_LAST = 768, 6000
"""Of a stage, and of the last stage, with strategy `fast`."""

QUICK_EVALUATIONS_FIRST, QUICK_EVALUATIONS, QUICK_EVALUATIONS_LAST = 48, 16, 128
"""Of the first stage, which all others start from, of those between, and of the last."""

QUICK_OFFSPRING, QUICK_OFFSPRING_LAST, QUICK_MODELS = 16, 32, 2
"""Those of the last stage are two batches of the vector engine, which two CPUs share."""

QUICK_RATE_STEPS = 6
"""Steps of the f-I curve in the report."""


class EvolutionSpec(Strict):
    """How the search runs. Unset numbers take the strategy's own values."""

    strategy: Literal["paper", "fast", "nsga2", "spea2", "nsga3", "mo-cma-es"] = "fast"
    """`fast`: small generations on log axes, then ensemble Kalman inversion, which learns from the signs of deviations,
    then CMA-ES. `paper`: IBEA as published. `nsga2`, `spea2`, `nsga3`: small generations on log axes with the
    selection of DEAP. `mo-cma-es`: multi-objective CMA-ES on log axes, by DEAP.
    """
    mode: Literal["generational", "steady"] = "generational"
    """`generational`, or `steady`: no barrier between generations, for one fit on very many cores; not reproducible."""
    learn: bool | None = None
    """Whether cells start from the halls of fame of cells with the same recipe that have finished; by default with
    strategy `fast`. Set it to `false` for a campaign that has to be reproducible to the byte.
    """
    patience: Annotated[int, Field(ge=16)] | None = None
    """Stop a search whose best total has not fallen by 1 % within this number of evaluations. With `fast`, a search
    that has begun again with new random individuals is not stopped before it has settled.
    """
    offspring: Annotated[int, Field(ge=4)] | None = None
    """Individuals per generation; by default 512 with strategy `paper`, and 4 per parameter (16 to 64) with `fast`."""
    generations: dict[str, PositiveInt] = {}
    """Strategy `paper`: generations of each stage, by default 50, 50 and 200."""
    evaluations: dict[str, Annotated[int, Field(ge=16)]] = {}
    """Strategy `fast`: evaluations of each stage and seed, such as `{passive: 500, active: 8000}`; by default 768 per
    stage and 6000 in the last.
    """
    hall_of_fame: PositiveInt = 10
    """Models kept per seed."""
    tolerance: Annotated[float, Field(ge=0, le=10)] | None = None
    """Models whose mean |z| is at most so many standard deviations above the best one's count as equally good: of
    these, the halls of fame keep those that differ most. 0 keeps the lowest totals. By default 0.25, and 0 with
    strategy `paper`, as published.
    """
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [1, 2, 3, 4]
    """Seeds of the search, or how many there are: `4` stands for 1, 2, 3 and 4. The last stage runs all of them;
    subthreshold stages too with the vector engine, and the first with NEURON; other stages the first.
    """

    @field_validator("seeds", mode="before", json_schema_input_type=PositiveInt | list[int])
    @classmethod
    def _number_of_seeds(cls, seeds: Any) -> Any:
        """``seeds: 4`` are the seeds 1, 2, 3 and 4."""
        return list(range(1, seeds + 1)) if _is_whole(seeds) and 0 < seeds <= MOST_SEEDS else seeds

    @model_validator(mode="after")
    def _distinct_seeds(self) -> "EvolutionSpec":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ from each other")
        return self

    @model_validator(mode="after")
    def _length_of_the_strategy(self) -> "EvolutionSpec":
        if self.strategy != "paper" and self.generations:
            raise ValueError(f"strategy {self.strategy} takes `evaluations: {{stage: number}}`, not `generations:`")
        if self.strategy == "paper" and self.evaluations:
            raise ValueError("strategy paper takes `generations: {stage: number}`, not `evaluations:`")
        if self.strategy != "fast" and self.mode == "steady":
            raise ValueError(f"mode steady is of strategy fast; {self.strategy} goes generation by generation")
        return self

    def quick_version(self) -> "EvolutionSpec":
        """One seed of strategy `fast`, in small generations; `FitSpec.evaluations_of` limits its evaluations."""
        return self.model_copy(
            update={
                "strategy": "fast",
                "mode": "generational",
                "offspring": min(self.offspring or QUICK_OFFSPRING_LAST, QUICK_OFFSPRING_LAST),
                "generations": {},
                "hall_of_fame": min(self.hall_of_fame, QUICK_MODELS),
                "seeds": self.seeds[:1],
            }
        )

    @property
    def kept_within(self) -> float:
        """How far the mean score of a model may be above the best one's for a hall of fame to prefer different ones."""
        return (0.0 if self.strategy == "paper" else DEFAULT_TOLERANCE) if self.tolerance is None else self.tolerance

    @property
    def learns(self) -> bool:
        """Whether cells start from the halls of fame of cells that were finished before them."""
        return self.strategy != "paper" if self.learn is None else self.learn


class FitSpec(JobSpec):
    """A fit job (`kind: fit`)."""

    runner: ClassVar[str] = "neurofleet.jobs.fit.fit_run:run_fit"
    planner: ClassVar[str] = "neurofleet.jobs.fit.fit_costs:print_fit_plan"
    checker: ClassVar[str | None] = "neurofleet.jobs.fit.fit_inputs:check_budgets_of_recipe"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel", "cmaes", "deap")

    kind: Literal["fit"] = "fit"
    """A fit of neuron models to recordings."""
    cells: Annotated[list[CellSpec], Field(min_length=1)] | None = None
    """The cells to fit: a list, a table (`{from: cells.csv}`, one row per cell) or a pattern of recordings (`{glob:
    "cells/*.nwb"}`); keys beside `from` and `glob` apply to all cells.
    """
    evaluator: Annotated[str, AfterValidator(_module_and_function)] | None = None
    """A BluePyOpt model of your own, in place of `cells:`, as `module:function`; the function returns a
    `CellEvaluator`, and the module lies beside the job file.
    """
    mechanisms: LocalPath | None = None
    """Folder of your own mod files, for a recipe that names their mechanisms."""
    recipe: RecipeName = "all-active"
    """Stages, mechanisms, parameters with bounds, and e-features: a built-in recipe (`neurofleet recipe` lists them) or
    your own YAML file.
    """
    evolution: EvolutionSpec = EvolutionSpec()
    """How the search runs."""
    engine: Literal["auto", "neuron", "vector"] = "auto"
    """What simulates a search: `vector` (16 models at a time, with a kernel generated from the cell's mechanisms),
    `neuron`, or `auto`: `vector` where possible. NEURON scores the hall of fame in any case.
    """
    warm_start: LocalPath | None = None
    """Hall of fame of other cells (a run folder or a Parquet file), used as first individuals of the last stage."""
    deadline_s: Annotated[float, Field(gt=0)] | Literal["auto"] = 300.0
    """Wall-clock limit of one evaluation in seconds; `auto` learns it. Models that are computed together share
    theirs.
    """
    max_steps: PositiveInt | None = 1_000_000
    """Integration steps of one evaluation by NEURON; a runaway model ends at the same step on every machine. `null`
    sets no limit.
    """
    memory_limit_mb: PositiveInt = 4096
    """Memory of one evaluation in MB."""
    weights: dict[Name, Positive] = {}
    """How groups of cells share the hosts: `{group: weight}`, 1 each by default."""
    max_core_hours: Positive | None = None
    """Total evaluation time in core-hours, after which no new work is started."""
    max_wall_hours: Positive | None = None
    """Hours since the start, after which no new work is started."""
    max_hosts: PositiveInt | None = None
    """On a cluster that grows and shrinks: ask it for as many hosts as have work, up to this number, and release them
    at the end.
    """
    loggers: list[LoggerName] = []
    """Where each generation is logged besides the run's own tables, in `OUT/loggers`: `tensorboard` (`pip install
    tensorboardX`), `csv`, `mlflow` (`pip install mlflow-skinny sqlalchemy alembic`) and `wandb`.
    """
    storage_wait_minutes: Annotated[float, Field(ge=0)] = 15.0
    """How long a run waits for an object store that does not answer; then it ends with exit code 3 and can be
    resumed.
    """

    @model_validator(mode="after")
    def _one_subject(self) -> "FitSpec":
        if (self.cells is None) == (self.evaluator is None):
            raise ValueError("name either `cells:` or `evaluator: module:function`, one of the two")
        if self.evaluator is not None and self.engine == "vector":
            raise ValueError(
                "`engine: vector` is made from a cell's mechanisms, and an `evaluator:` of your own runs "
                "as it is; leave `engine:` out"
            )
        if self.cells is not None:
            ids = [cell.id for cell in self.cells]
            doubled = sorted({cell for cell in ids if ids.count(cell) > 1})
            if doubled:
                raise ValueError(f"each cell needs an id of its own, found more than one {', '.join(doubled)}")
            strange = sorted(set(self.weights) - {cell.group for cell in self.cells})
            if strange:
                raise ValueError(f"weights: no cell is of the group {', '.join(strange)}")
        return self

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with a table or a pattern of cells replaced by the cells that it names."""
        cells = content.get("cells")
        if isinstance(cells, dict):
            return content | {"cells": expand_cells(cells, folder, CellSpec, source)}
        if isinstance(cells, list):
            return content | {
                "cells": [
                    _with_files(cell, folder, f"{source}: {place_in_words(('cells', n), content)}")
                    for n, cell in enumerate(cells)
                ]
            }
        return content

    def quick_version(self) -> Self:
        """The first cell, one seed, and few evaluations."""
        cells = None if self.cells is None else self.cells[:1]
        return self.model_copy(update={"cells": cells, "weights": {}, "evolution": self.evolution.quick_version()})

    def evaluations_of(self, stage: str, *, first: bool, last: bool) -> int:
        """Return how many evaluations a stage has with strategy `fast`."""
        evaluations = self.evolution.evaluations.get(stage, FAST_EVALUATIONS_LAST if last else FAST_EVALUATIONS)
        if not self.quick:
            return evaluations
        few = QUICK_EVALUATIONS_LAST if last else QUICK_EVALUATIONS_FIRST if first else QUICK_EVALUATIONS
        return min(evaluations, few)

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        named = [self.mechanisms, self.warm_start, Path(self.recipe)]
        for cell in self.cells or ():
            files = (cell.morphology, cell.recordings, cell.targets)
            named += [Path(file) for file in files if file is not None and not is_url(file)]
        return [path for path in named if path is not None]

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: no limits of the whole, no shares of the hosts; cells by id."""
        plain = self.plain()
        for key in ("weights", "max_core_hours", "max_wall_hours", "max_hosts", "storage_wait_minutes", "loggers"):
            plain.pop(key, None)
        cells = {
            cell["id"]: {k: v for k, v in cell.items() if k not in ("id", "weight", "group")}
            for cell in plain.pop("cells", [])
        }
        return plain | {"cells": cells}
