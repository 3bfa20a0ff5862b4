"""When the vector engine steps aside for NEURON: what it does not support is named in an error of its own.

Raised while a kernel is made, before anything is simulated: for a mechanism by `nmodl_syntax`,
`nmodl_statements`, `state_equations` and `membrane` (through `Syntax.unsupported`), for the shape of a cell by
`kernel_setup`, for its size by `vector_evaluator`. With ``engine: auto`` a job then takes NEURON; with
``engine: vector`` it ends with the message.
"""

from neurofleet.errors import InputError


class Unsupported(InputError):
    """A mechanism, something in it, or a cell that the vector engine does not support."""
