"""The vector engine: many individuals of one cell simulated together by a kernel compiled for this machine.

From an NMODL file to scores, in this order:

`nmodl_syntax`
    The syntax tree of a mechanism, from NEURON's own NMODL compiler; `Unsupported`, where NEURON has to be used.
`nmodl_statements`, `state_equations`
    Its statements and equations carried out symbolically.
`arithmetic_graph`
    The arithmetic that this makes, as a graph that shares equal terms.
`membrane`
    All mechanisms of a kind of compartment as one graph.
`kernel_build`
    The graph as C++ around the solver in ``kernel.hpp``, compiled and kept by content.
`kernel_setup`
    What a kernel is called with: tree of compartments, tables of parameters, time steps.
`vector_evaluator`
    Voltages and scores of individuals: `VectorEvaluator`.

Why it exists and how it is checked: ``docs/decisions/vector-engine.md``.
"""
