"""Patch-clamp recordings: sweeps of one current step each, read from NWB files and written to them.

`recording`
    Read the step sweeps of a file: `read_recording`, `Recording`, `Sweep`.
`nwb_allen`, `nwb2`
    The two file layouts: Allen Institute NWB 1.x, and NWB 2.
`sweep_entries`
    What a file lists of its sweeps before any data are read, and which of them were asked for.
`current_step`
    Find the step in a recorded current.
`nwb_writer`
    Write sweeps as an NWB 2 file.
"""
