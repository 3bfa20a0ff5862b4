"""The ion channels: their names and parameters (`MECHANISMS`), compiled once a machine, put into NEURON."""

from neurofleet.neurosim.mechanisms.catalogue import MECHANISMS, Mechanism, describe, read_mechanism
from neurofleet.neurosim.mechanisms.nmodl_compilation import compile_mechanisms, load_mechanisms
from neurofleet.neurosim.mechanisms.user_mechanisms import UserMechanisms

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "UserMechanisms",
    "compile_mechanisms",
    "describe",
    "load_mechanisms",
    "read_mechanism",
]
