"""Small made-up sweeps and recording files for the tests."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from neurofleet.neurosim.recordings.recording import Sweep

RATE_HZ = 10_000.0


def step_current(amplitude_nA=0.1, start_ms=100.0, length_ms=200.0, total_ms=500.0, rate_Hz=RATE_HZ):
    """Noiseless current of one step; its last sample is the one before start + length."""
    current = np.zeros(round(total_ms * rate_Hz / 1000.0))
    first, stop = (round(t * rate_Hz / 1000.0) for t in (start_ms, start_ms + length_ms))
    current[first:stop] = amplitude_nA
    return current


def membrane_voltage(current_nA, rate_Hz=RATE_HZ, rest_mV=-70.0, resistance_MOhm=100.0, tau_ms=15.0):
    """Voltage of a passive membrane, by exponential Euler steps."""
    decay = np.exp(-1000.0 / rate_Hz / tau_ms)
    voltage = np.empty(current_nA.size)
    value = rest_mV + resistance_MOhm * current_nA[0]
    for i, current in enumerate(current_nA):
        value = rest_mV + resistance_MOhm * current + (value - rest_mV - resistance_MOhm * current) * decay
        voltage[i] = value
    return voltage


def add_spikes(voltage_mV, times_ms, rate_Hz=RATE_HZ):
    """Add triangular spikes to +30 mV: a slow foot of 5 ms, 1 ms of rise and 1.5 ms of fall."""
    voltage = voltage_mV.copy()
    time_ms = np.arange(voltage.size) * 1000.0 / rate_Hz
    for peak_ms in times_ms:
        shape = np.interp(time_ms - peak_ms, [-6.0, -1.0, 0.0, 1.5], [0.0, 0.08, 1.0, 0.0])
        voltage = voltage + shape * (30.0 - voltage)
    return voltage


def make_sweep(number=1, amplitude_nA=0.1, spikes_ms: Sequence[float] = (), rate_Hz=RATE_HZ, **changes) -> Sweep:
    """A sweep of 500 ms with a step from 100 to 300 ms."""
    current = step_current(amplitude_nA, rate_Hz=rate_Hz)
    sweep = Sweep(
        number=number,
        stimulus_name="Long Square",
        sampling_rate_Hz=rate_Hz,
        current_nA=current,
        voltage_mV=add_spikes(membrane_voltage(current, rate_Hz), spikes_ms, rate_Hz),
        start_ms=100.0,
        stop_ms=300.0 - 1000.0 / rate_Hz,
        amplitude_nA=amplitude_nA,
        holding_nA=0.0,
        duration_ms=500.0 - 1000.0 / rate_Hz,
    )
    return replace(sweep, **changes)


def write_series(path: Path, sweeps: Sequence[Mapping], table: Sequence[tuple] | None = None) -> Path:
    """Write an NWB 2 file.

    Each sweep holds `current` and `voltage` (as stored), and optionally `names`, `stimulus_name`, `number`,
    `rate`, `conversions`, `offset` (of the voltage), `clamp`, `electrode` (its name), `starts` (of the voltage
    and the current, in s), `timestamps`, and `response`: further fields of the response. `table` lists the table
    of recordings: for each row the sweep of the response, that of the stimulus, first sample and number of samples.
    """
    from pynwb import NWBHDF5IO, NWBFile, icephys

    nwbfile = NWBFile("made up", "cell", datetime(2020, 1, 1, tzinfo=UTC))
    rig = nwbfile.create_device(name="rig")
    electrodes: dict[str, object] = {}
    series = []
    for sweep in sweeps:
        response_name, stimulus_name = sweep["names"]
        amperes, volts = sweep.get("conversions", (1e-9, 1e-3))
        name = sweep.get("electrode", "el")
        if name not in electrodes:
            electrodes[name] = nwbfile.create_icephys_electrode(
                name=name, description="glass", device=rig, **sweep.get("electrode_fields", {})
            )
        common = {
            "electrode": electrodes[name],
            "gain": 7.0,  # must not matter
            "stimulus_description": sweep.get("stimulus_name", "Long Square"),
            "sweep_number": None if "number" not in sweep else np.uint64(sweep["number"]),
        }
        starts = sweep.get("starts", (0.0, 0.0))
        if "timestamps" in sweep:
            clocks = [{"timestamps": sweep["timestamps"] + start} for start in starts]
        else:
            clocks = [{"starting_time": start, "rate": sweep.get("rate", RATE_HZ)} for start in starts]
        clamp = getattr(icephys, sweep.get("clamp", "CurrentClampSeries"))
        response = clamp(
            name=response_name,
            data=sweep["voltage"],
            conversion=volts,
            offset=sweep.get("offset", 0.0),
            **common,
            **clocks[0],
            **sweep.get("response", {}),
        )
        stimulus = icephys.CurrentClampStimulusSeries(
            name=stimulus_name, data=sweep["current"], conversion=amperes, **common, **clocks[1]
        )
        nwbfile.add_acquisition(response)
        nwbfile.add_stimulus(stimulus)
        series.append((response, stimulus))
    for of_response, of_stimulus, first, count in table or ():
        response, stimulus = series[of_response][0], series[of_stimulus][1]
        part = {"start_index": first, "index_count": count}
        nwbfile.add_intracellular_recording(
            electrode=response.electrode,
            response=response,
            stimulus=stimulus,
            **{f"{side}_{key}": value for side in ("response", "stimulus") for key, value in part.items()},
        )
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return path


def write_allen(
    path: Path,
    current,
    voltage,
    *,
    version: str | None = "1.1.0",
    conversions=(1.0, 1.0),
    experiment: tuple[int, int] | None = None,
    number: int = 5,
    rate_Hz: float = RATE_HZ,
    stop_key: str = "count",
    properties: Mapping[str, float] | None = None,
) -> Path:
    """Write one sweep in the Allen NWB 1.x layout; `experiment` is (first sample, number of samples).

    `properties` of the sweep stand where the acquisition is.
    """
    with h5py.File(path, "w") as file:
        file["nwb_version"] = "NWB-1.0.5"
        if version is not None:
            words = np.array([["version", version], ["name", "pipeline"]], dtype="S20")
            file["general/generated_by"] = words.ravel()
        for part, data, conversion in (
            ("stimulus", current, conversions[0]),
            ("response", voltage, conversions[1]),
        ):
            series = file.create_group(f"epochs/Sweep_{number}/{part}/timeseries")
            series["data"] = np.asarray(data)
            series["data"].attrs["conversion"] = conversion
            series["data"].attrs["unit"] = np.bytes_("Amps" if part == "stimulus" else "Volts")
            series["starting_time"] = 0.0
            series["starting_time"].attrs["rate"] = rate_Hz
            _index_range(file[f"epochs/Sweep_{number}/{part}"], 0, len(data), stop_key)
            if experiment is not None:
                epoch = file.require_group(f"epochs/Experiment_{number}/{part}")
                _index_range(epoch, *experiment, stop_key)
        file[f"acquisition/timeseries/Sweep_{number}/aibs_stimulus_name"] = np.bytes_("Long Square")
        for name, value in (properties or {}).items():
            file[f"acquisition/timeseries/Sweep_{number}/{name}"] = value
    return path


def _index_range(epoch, first: int, count: int, stop_key: str) -> None:
    epoch["idx_start"] = first
    epoch[stop_key] = count if stop_key == "count" else first + count - 1
