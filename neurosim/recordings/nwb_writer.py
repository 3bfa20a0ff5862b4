"""Write sweeps, simulated ones for instance, as an NWB 2 recording."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from neurofleet.neurosim.recordings.recording import Sweep


def write_nwb(
    path: Path | str,
    sweeps: Sequence[Sweep],
    *,
    session_description: str,
    cell_id: str,
    junction_potential_mV: float = 0.0,
    session_start: datetime = datetime(2000, 1, 1, tzinfo=UTC),
) -> Path:
    """Write sweeps as current-clamp series with their stimuli, paired in the table of recordings.

    `read_recording(path, junction_potential_mV=..., stimuli=...)` gives equal sweeps back.

    Parameters
    ----------
    path : path
        File to write; an existing one is replaced.
    sweeps : sequence of Sweep
        Sampled evenly; numbers are kept, `stimulus_name` becomes the stimulus description.
    session_description, cell_id : str
    junction_potential_mV : float
        Added to the voltage, which has it subtracted in a `Sweep`.
    session_start : datetime
        Time-zone aware start of the session.
    """
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.icephys import CurrentClampSeries, CurrentClampStimulusSeries

    nwbfile = NWBFile(
        session_description=session_description,
        identifier=cell_id,
        session_start_time=session_start,
        session_id=cell_id,
    )
    device = nwbfile.create_device(name="rig")
    electrode = nwbfile.create_icephys_electrode(
        name="electrode_0", description="whole-cell electrode", device=device, cell_id=cell_id
    )
    for sweep in sweeps:
        common = {
            "electrode": electrode,
            "gain": 1.0,
            "rate": sweep.sampling_rate_Hz,
            "stimulus_description": sweep.stimulus_name,
            "sweep_number": np.uint64(sweep.number),
        }
        response = CurrentClampSeries(
            name=f"response_{sweep.number:05d}",
            data=sweep.voltage_mV + junction_potential_mV,
            conversion=1e-3,
            **common,
        )
        stimulus = CurrentClampStimulusSeries(
            name=f"stimulus_{sweep.number:05d}", data=sweep.current_nA, conversion=1e-9, **common
        )
        nwbfile.add_intracellular_recording(electrode=electrode, stimulus=stimulus, response=response)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return Path(path)
