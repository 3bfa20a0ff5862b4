"""The ion channels: their names and parameters (`MECHANISMS`), compiled once a machine, put into NEURON."""

from neurofleet.neurosim.mechanisms.catalogue import MECHANISMS, Mechanism, describe, read_mechanism
from neurofleet.neurosim.mechanisms.nmodl_compilation import UserMechanisms, compile_mechanisms, load_mechanisms

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "UserMechanisms",
    "compile_mechanisms",
    "describe",
    "load_mechanisms",
    "read_mechanism",
]
