"""Studies: jobs over models that were fitted before, or drawn.

What all kinds share:

- `study`: reading, running or resuming, tables, report and plan of any study
- `findings`: typed findings, stored as JSON, printed, and shown in a report
- `measurements`, `blocks`: measurements of models, on the pool and stored in blocks
- `populations`: the models that a job names

The kinds, each with its job file, inputs and measurement in one module and its findings in ``…_report``:
`validation`, `sensitivity`, `synapses`, `sampling`, `posterior`, `comparison` and `analysis`.
"""
