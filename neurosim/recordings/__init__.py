"""Patch-clamp recordings: sweeps of one current step each, read from files of many formats, written as NWB.

`recording`
    Read the step sweeps of a file: `read_recording`, `Recording`, `Sweep`.
`recording_formats`
    Recognise a format and open the file with its reader.
`nwb_allen`, `nwb2`, `abf_files`, `igor_waves`, `winwcp_files`, `neo_files`
    The readers: Allen Institute NWB 1.x, NWB 2, pCLAMP, Igor Pro, WinWCP, and Spike2 and AxoGraph through neo.
`recorded_channels`
    Which channel is the voltage, and which current belongs to it.
`sweep_entries`
    What a file lists of its sweeps before any data are read, and which of them were asked for.
`current_step`
    Find the step in a recorded current.
`nwb_writer`
    Write sweeps as an NWB 2 file.
"""
