"""Models and recordings of others, and models written for others.

`allen_download`
    Cells of the Allen Cell Types Database, downloaded by `neurofleet.http_download`.
`allen_fit`
    Fit files of the Allen Institute, read and written.
`model_export`
    A fitted model written as a hoc template or a SONATA network.
`run_bionet`
    The script that such a network brings along to be run in BMTK.
"""
