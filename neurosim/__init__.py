"""NEURON models and their fitting, without Ray: every part can be called in a notebook.

==================  ===================================================================================
`recordings`        Patch-clamp recordings: NWB 2 and Allen NWB 1.x read, NWB 2 written
`mechanisms`        Ion channels (NMODL): the project's and the user's, compiled and loaded
`cells`             Morphology, recipe and model of a cell; its evaluation in NEURON, built once
`features`          Step protocols, e-features of recordings and models, targets, scores
`evolution`         Parameter spaces and search strategies: ask for individuals, tell their scores
`vector`            The vector engine: many individuals of one cell simulated together
`studies`           What fitted models are asked: validation, sensitivity, sampling, synapses, classes
`exchange`          Models and recordings of others (Allen Institute), models exported for others
==================  ===================================================================================

`recipes` holds the built-in recipes, one YAML file each; `faults` puts the errors of a user's file into sentences.
"""
