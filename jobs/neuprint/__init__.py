"""NeuPRINT jobs: recordings of populations in, who each neuron is and how well its class is told out."""
