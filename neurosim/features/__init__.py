"""E-features of recordings and models: protocols, targets and scores.

`step_protocols`
    The distinct steps of a recording, and the set of targets that a stage is scored on.
`training_targets`, `published_targets`
    Targets extracted from recorded sweeps, or read from the files of the released workflow.
`perisomatic_features`
    The twelve e-features of perisomatic models, and the spikes they are read from.
`bluepyopt_efeatures`
    E-features that eFEL does not have, as BluePyOpt scores them: spikes that begin in the axon, perisomatic ones.
`batch_features`, `batch_scoring`
    The e-features and scores of many individuals at once, for the vector engine.
"""
