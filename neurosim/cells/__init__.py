"""Cells as BluePyOpt models: morphology, mechanisms, parameters, and their evaluation in NEURON.

`recipe`
    Which mechanisms, parameters and e-features each stage of a fit has, and within which bounds.
`stage_bounds`
    The bounds that one stage hands to the next.
`morphology`, `morphology_readers`, `swc_reader`, `asc_reader`
    A reconstructed cell, read from SWC, Neurolucida's ASC or MorphIO's HDF5.
`morphology_measures`, `morphology_check`
    Measure and check a morphology before any work is done, and that NEURON makes the same cell of it.
`cell_morphology`, `cell_model`
    The morphology with its axon replaced or kept; the whole cell as a BluePyOpt ``CellModel``.
`fit_model`
    One stage of one cell: cell, free parameters, protocols and objectives, as a BluePyOpt evaluator.
`user_model`
    An evaluator that the user wrote, named as ``module:function``.
`warm_evaluator`
    Evaluate any of these on a cell that is built once, within a budget of integration steps.
`simulator`
    NEURON with a stated accuracy; voltages recorded at fixed times.
`demo_cell`
    A small cell of known parameters, and recordings of it.
"""
