"""What fitted models are asked. A measurement is a dataclass whose ``build()`` returns a function of parameter values.

`cell_models`
    The models of one cell, best first: what every measurement begins from.
`generalisation`, `explained_variance`
    Validation at steps and stimuli that the models were not fitted to.
`spike_initiation`
    Where spikes begin, at the soma or along the axon.
`synaptic_potentials`
    Postsynaptic potentials at the soma from single synapses.
`parameter_sampling`
    Random draws of parameters, and which of them behave like the recorded cell.
`posterior_sampling`
    Draws from the density of models given a recording, and whether they have converged.
`sobol_indices`, `polynomial_chaos`, `saltelli`
    Which parameters an e-feature depends on: the problem and its indices, and two ways to them.
`model_table`
    Tables of the models of many cells, and of the cells.
`class_comparisons`, `dispersion`, `random_forest`, `cell_maps`
    Classes of cells: tests between them, distances, classifiers, maps.
"""
