"""NeuPRINT: who is this neuron, from the dynamics of the population it was recorded in."""
