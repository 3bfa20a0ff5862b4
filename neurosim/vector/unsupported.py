"""When the vector engine steps aside for NEURON: what it does not support is named in an error of its own.

Raised while a kernel is made, before anything is simulated: by `nmodl_syntax`, `nmodl_statements`,
`state_equations` and `membrane` for a mechanism (through `Syntax.unsupported`), by `kernel_setup` for the shape of a cell,
by `vector_evaluator` for its size. `engine: auto` of a job then takes the NEURON engine; `engine: vector` ends
with the message.
"""

from neurofleet.errors import InputError


class Unsupported(InputError):
    """A mechanism, something in it, or a cell that the vector engine does not support."""
