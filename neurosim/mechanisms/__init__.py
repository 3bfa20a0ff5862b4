"""The ion channels: their names and parameters (`MECHANISMS`), compiled once a machine, put into NEURON."""

from neurosim.mechanisms.catalogue import MECHANISMS, Mechanism, describe, read_mechanism
from neurosim.mechanisms.compiling import compile_mechanisms, load_mechanisms
from neurosim.mechanisms.own import UserMechanisms

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "UserMechanisms",
    "compile_mechanisms",
    "describe",
    "load_mechanisms",
    "read_mechanism",
]
