"""Parameter sweeps under Ray Tune.

=====================  ================================================================================
`parameter_sweep`      what a sweep is: its trials' function, search space, scheduler, resources, result
`search_space`         search spaces from plain data, and how settings are drawn from them
`ray_tune`             `sweep`: runs the trials, and keeps the sweep's folder
`trial_process`        what runs in the process of a trial
`trial_records`        the folder of each trial, the table of those that have ended, which come next
`optuna_journal`       the same trials as an Optuna study in a file
=====================  ================================================================================
"""
