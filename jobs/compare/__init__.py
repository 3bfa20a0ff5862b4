"""Two types of models of the same cells side by side: e-features, conductances, and where spikes begin."""
