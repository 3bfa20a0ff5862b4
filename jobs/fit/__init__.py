"""Fits of neuron models: the cells of a job through their stages, all over one pool.

`fit_job`
    The keys of the job file.
`fit_inputs`, `input_process`, `fit_problem`
    Inputs read and checked, also ahead of their fits; what is searched in each stage.
`engine_choice`, `engines`
    Whether NEURON or the vector engine searches a stage; the engines that hosts build.
`fit_run`, `campaign`
    The run of a job: many cells over one pool.
`cell_stages`
    A cell through its stages; the winner's bounds go to the next stage.
`stage_search`, `steady_search`
    The search of a stage with one seed, by generations or without.
`model_files`
    The best model written as Allen fit JSON and hoc.
`campaign_state`, `campaign_progress`, `fit_costs`
    What status and progress show; what `neurofleet plan` says.
"""
