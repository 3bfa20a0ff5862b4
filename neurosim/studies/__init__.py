"""What fitted models are asked: validation, sensitivity, sampling, synapses, and classes of cells."""
