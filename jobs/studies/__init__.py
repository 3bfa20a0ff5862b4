"""Studies of populations of models: validation, sensitivity, synapses, samples, comparisons, analyses."""
