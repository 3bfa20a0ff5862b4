"""Read targets and bounds from the files of the released workflow, for cells without recordings."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurofleet.errors import InputError, did_you_mean
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE, FeatureTarget, StepProtocol, TargetSet

SECTION_OF_LIST = {"somatic": "soma", "axonal": "axon", "basal": "dend", "apical": "apic", "all": "all"}


def read_bounds(folder: Path) -> dict[str, tuple[float, float]]:
    """Return full parameter name -> bounds of ``folder/parameters.json``; empty when there is no such file.

    Raises
    ------
    InputError
        When the file is not what the released workflow writes, or has bounds upside down.
    """
    path = folder / "parameters.json"
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text())
        all_bounds = {
            f"{row['param_name']}.{SECTION_OF_LIST[row['sectionlist']]}": tuple(map(float, row["bounds"]))
            for row in rows
            if "bounds" in row
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a list of {{param_name, sectionlist, bounds}}, found something else "
            f"({error!r}). Fix the file, or remove it to use the recipe's bounds."
        ) from error
    for name, bounds in all_bounds.items():
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise InputError(f"{path}: {name}: bounds are [low, high] with low < high, found {list(bounds)}.")
    return all_bounds  # type: ignore[return-value]


def read_targets(folder: Path | str) -> TargetSet:
    """Read `features.json` (protocol, location, feature: [mean, std]) and `protocols.json` of a folder.

    Only protocols that have targets are kept. They are those of the active stage.

    Raises
    ------
    InputError
        When a file is missing or is not of this form, or names an unknown feature.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. `targets:` names one with features.json and protocols.json.")
    features, stimuli = (_mapping(folder / name) for name in ("features.json", "protocols.json"))
    protocols: dict[str, StepProtocol] = {}
    targets = []
    for name, locations in features.items():
        if name not in stimuli:
            raise InputError(
                f"{folder / 'protocols.json'}: no protocol {name!r}{did_you_mean(name, stimuli)}, "
                "though features.json has targets for it. Add it, or remove the targets."
            )
        protocols[name] = _protocol(name, stimuli[name], folder / "protocols.json")
        targets += _targets(protocols[name], locations, folder / "features.json")
    if not targets:
        raise InputError(f"{folder / 'features.json'}: expected targets, found none.")
    return TargetSet(protocols=protocols, targets=tuple(targets))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a folder of targets holds features.json and protocols.json.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected JSON, but it cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object of protocols, found a {type(content).__name__}.")
    return content


def _targets(protocol: StepProtocol, locations: Any, path: Path) -> list[FeatureTarget]:
    import efel

    if not isinstance(locations, Mapping) or set(locations) != {"soma"}:
        names = ", ".join(locations) if isinstance(locations, Mapping) else repr(locations)
        raise InputError(f"{path}: {protocol.name}: expected targets at the location soma alone, found {names}.")
    if not isinstance(locations["soma"], Mapping):
        raise InputError(f"{path}: {protocol.name}.soma: expected features with [mean, std] each.")
    known = [*efel.get_feature_names(), AIS_FEATURE]
    targets = []
    for feature, statistics in locations["soma"].items():
        where = f"{path}: {protocol.name}.soma.{feature}"
        if feature not in known:
            raise InputError(f"{where}: eFEL has no such feature{did_you_mean(feature, known)}.")
        try:
            mean, std = (float(value) for value in statistics)
        except (TypeError, ValueError):
            raise InputError(f"{where}: expected [mean, std], found {statistics!r}.") from None
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise InputError(f"{where}: expected a finite mean and a positive std, found [{mean}, {std}].")
        repeats = 0 if feature == AIS_FEATURE else len(protocol.sweeps)
        targets.append(FeatureTarget(protocol.name, "soma", feature, mean, std, repeats))
    return targets


def _protocol(name: str, content: Any, path: Path) -> StepProtocol:
    """One step; a second pulse as long as the protocol is the holding current."""
    try:
        pulses = content["stimuli"]
        kinds = {pulse.get("type", "SquarePulse") for pulse in pulses} - {"SquarePulse"}
        if kinds:
            raise InputError(f"{path}: {name}: expected stimuli of type SquarePulse, found {', '.join(kinds)}.")
        lasting = [pulse for pulse in pulses if pulse["duration"] >= pulse["totduration"] - 1e-3]
        steps = [pulse for pulse in pulses if pulse not in lasting]
        if len(steps) != 1 or len(lasting) > 1:
            raise InputError(
                f"{path}: {name}: expected one step and at most one holding current, found {len(steps)} "
                f"steps and {len(lasting)} pulses over the whole duration."
            )
        step = steps[0]
        protocol = StepProtocol(
            name=name,
            amplitude_nA=float(step["amp"]),
            start_ms=float(step["delay"]),
            stop_ms=float(step["delay"]) + float(step["duration"]),
            duration_ms=float(step["totduration"]),
            holding_nA=sum(float(pulse["amp"]) for pulse in lasting),
            sweeps=_sweep_numbers(step.get("sweep_filenames", ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: {name}: expected `stimuli` with amp, delay, duration and totduration each, "
            f"found something else ({error!r})."
        ) from error
    if not 0 <= protocol.start_ms < protocol.stop_ms <= protocol.duration_ms:
        raise InputError(
            f"{path}: {name}: expected 0 <= delay < delay + duration <= totduration, found "
            f"{protocol.start_ms:g}, {protocol.stop_ms:g} and {protocol.duration_ms:g} ms."
        )
    return protocol


def _sweep_numbers(file_names: Any) -> tuple[int, ...]:
    matches = (re.search(r"_(\d+)\.\w+$", str(name)) for name in file_names)
    return tuple(int(match[1]) for match in matches if match)
