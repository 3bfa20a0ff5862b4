"""The endings of the files that a cell comes in."""

MORPHOLOGY_SUFFIXES = (".swc", ".asc", ".h5")
RECORDING_SUFFIXES = (".nwb", ".abf", ".ibw", ".wcp", ".smr", ".axgx", ".axgd")
