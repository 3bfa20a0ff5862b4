"""Models of how a neuron goes on, given its past, what happens around it, and who it is (Phi)."""
