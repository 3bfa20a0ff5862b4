"""Training of Lightning modules, in this process or on the workers of a Ray cluster.

=====================  ================================================================================
`lightning_training`   what is trained, how its data are divided, and what results
`trainer`              `train`
`training_process`     one process of a training: Lightning's trainer and its callbacks
`training_workers`     a training on workers of a cluster: what they run, and their monitor in the driver
`data_division`        the data divided over workers, and the seeds of each epoch
`checkpoints`          the last two checkpoints, and the best
=====================  ================================================================================
"""
