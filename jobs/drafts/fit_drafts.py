"""Job files for recordings with morphologies: a fit, and a sample of models."""

from collections.abc import Sequence
from pathlib import Path

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.drafts.draft import Draft, as_id, partner
from neurofleet.neurosim.cells.morphology_check import axon_line, check_morphology
from neurofleet.neurosim.cells.morphology_readers import is_hdf5_morphology
from neurofleet.neurosim.recordings.recording import RecordingSource, electrode_names
from neurofleet.neurosim.recordings.recording_table import RecordingTable, SweepRow
from neurofleet.wording import listed

JUNCTION_POTENTIAL_MV = 14.0
USUAL_STIMULUS = "Long Square"
SHORTEST_STEP_MS = 200.0


def fit_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a fit of the cells whose morphologies and recordings are given.

    Raises
    ------
    UsageError, InputError
        A morphology or a recording is missing, does not belong to another, or cannot be used.
    """
    draft = Draft("fit", folder)
    _put_cells(draft, files)
    draft.say(
        "All other keys have defaults: `evolution: {seeds: 4, evaluations: {active: 6000}}`, `recipe:`, `engine:` …"
    )
    return draft


def sample_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a sample of models of such cells; raises as `fit_draft` does."""
    draft = Draft("sample", folder)
    _put_cells(draft, files)
    draft.put("draws", 10_000, "random models within the bounds of the recipe")
    draft.put("within_z", 3.0, "standard deviations: a model within them of every target is accepted")
    return draft


def _put_cells(draft: Draft, files: Sequence[Path]) -> None:
    morphologies = [file for file in files if file.suffix.lower() in (".swc", ".asc") or is_hdf5_morphology(file)]
    recordings = [file for file in files if file not in morphologies]
    if not morphologies or not recordings:
        raise UsageError(
            "Expected a morphology (SWC, ASC) and a recording (NWB, ABF …) of each cell, found "
            f"{listed(map(str, morphologies)) or 'no morphology'} and {listed(map(str, recordings)) or 'no recording'}."
        )
    draft.lines.append("cells:")
    seen: dict[str, Path] = {}
    for recording in recordings:
        morphology = partner(recording, morphologies)
        if morphology is None:
            raise UsageError(
                f"{recording}: which morphology belongs to it? Found {listed(map(str, morphologies))}. Give the two "
                "files of a cell the same name, put them into a folder of their own, or make a job for each cell."
            )
        cell = as_id(morphology.stem if len(recordings) == len(morphologies) else recording.stem)
        if cell in seen:
            raise UsageError(f"{recording}, {seen[cell]}: expected one recording for each cell, found two of {cell}.")
        seen[cell] = recording
        _put_cell(draft, cell, morphology, recording)


def _put_cell(draft: Draft, cell: str, morphology: Path, recording: Path) -> None:
    summary = check_morphology(morphology)
    draft.put("id", cell, indent="  - ")
    inside = "    "
    draft.put("morphology", draft.path(morphology), indent=inside)
    draft.say(summary.line(), *(f"warning: {text}" for text in summary.warnings), indent=inside)
    draft.say(f"{axon_line(summary, 'stub')}, the default; `axon: full` keeps what is reconstructed", indent=inside)
    electrodes = electrode_names(recording)
    electrode = electrodes[0] if len(electrodes) > 1 else None
    source = RecordingSource(recording, JUNCTION_POTENTIAL_MV, ("*",), electrode=electrode)
    table = source.look().table
    draft.put("recordings", draft.path(recording), indent=inside)
    if electrode is not None:
        draft.put("electrode", electrode, f"a guess: recorded were {listed(electrodes)}", indent=inside)
    draft.say(f"{table.file}: {table.used} of {len(table.rows)} sweeps can be used ({table.about})", indent=inside)
    draft.say(*(f"warning: {text}" for text in table.warnings), indent=inside)
    kinds = _by_stimulus(table)
    draft.say(*(_told(name, rows) for name, rows in kinds.items()), indent=inside)
    draft.say(
        "Steps without a spike train the passive and ih stages, also those near rheobase: `exclude_sweeps: [NUMBER]`.",
        indent=inside,
    )
    draft.put("stimuli", _chosen(recording, kinds), "those with steps that a fit can use", indent=inside)
    why = "has an apical dendrite" if summary.has_apical else "has no apical dendrite"
    dendrite = "spiny" if summary.has_apical else "aspiny"
    draft.put("dendrite", dendrite, f"a guess: the morphology {why}; spiny or aspiny chooses the recipe", indent=inside)
    draft.put(
        "junction_potential_mV",
        JUNCTION_POTENTIAL_MV,
        "a guess: subtracted from the voltage; 0 if the file has it corrected",
        indent=inside,
    )


def _by_stimulus(table: RecordingTable) -> dict[str, list[SweepRow]]:
    kinds: dict[str, list[SweepRow]] = {}
    for row in table.rows:
        kinds.setdefault(row.stimulus, []).append(row)
    return kinds


def _told(name: str, rows: Sequence[SweepRow]) -> str:
    usable = [row for row in rows if not row.left_out]
    text = f"{name or 'without a name'}: {len(rows)} sweeps"
    if not usable:
        return f"{text}, none of them usable ({rows[0].left_out})"
    amplitudes = [row.amplitude_pA for row in usable if row.amplitude_pA is not None]
    first = usable[0]
    if amplitudes and first.start_ms is not None and first.stop_ms is not None:
        text += f", steps of {min(amplitudes):,.0f} to {max(amplitudes):,.0f} pA"
        text += f" from {first.start_ms:.0f} to {first.stop_ms:.0f} ms"
    spiking = sum(bool(row.spikes) for row in usable)
    return f"{text}; {len(usable)} usable, {spiking} with spikes"


def _chosen(recording: Path, kinds: dict[str, list[SweepRow]]) -> list[str]:
    """Return the stimuli with long steps; of Allen recordings the usual one."""
    usable = {
        name: [row for row in rows if not row.left_out and row.start_ms is not None and row.stop_ms is not None]
        for name, rows in kinds.items()
    }
    usable = {name: rows for name, rows in usable.items() if name and rows}
    if not usable:
        raise InputError(
            f"{recording}: no sweep has a name and a step that a fit can use. `neurofleet inspect {recording}` says "
            "why."
        )
    if USUAL_STIMULUS in usable:
        return [USUAL_STIMULUS]
    long = [name for name, rows in usable.items() if rows[0].stop_ms - rows[0].start_ms >= SHORTEST_STEP_MS]  # type: ignore[operator]
    return long or list(usable)
