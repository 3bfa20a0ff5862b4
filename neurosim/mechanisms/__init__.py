"""Ion channels: the project's and the user's NMODL mechanisms, compiled once a machine and loaded into NEURON.

`catalogue`
    `MECHANISMS`: parameters, defaults and ions of each mechanism, read from its text.
`nmodl_compilation`
    Compile and load mechanisms; `UserMechanisms`, which travel with a model to wherever it is simulated.

``mod/`` holds the NMODL files.
"""

from neurofleet.neurosim.mechanisms.catalogue import MECHANISMS, Mechanism, describe, read_mechanism
from neurofleet.neurosim.mechanisms.nmodl_compilation import (
    UserMechanisms,
    compile_mechanisms,
    load_mechanisms,
    nmodl_files,
)

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "UserMechanisms",
    "compile_mechanisms",
    "describe",
    "load_mechanisms",
    "nmodl_files",
    "read_mechanism",
]
