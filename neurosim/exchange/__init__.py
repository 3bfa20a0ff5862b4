"""Models and recordings of others, and models written for others.

`allen_download`, `dandi_download`, `neuromorpho_download`
    What the Allen Cell Types Database, DANDI and NeuroMorpho.Org have under a name.
`archive_folder`
    Files of an archive, checked; downloaded by `neurofleet.http_download`.
`allen_fit`
    Fit files of the Allen Institute, read and written.
`model_export`
    A fitted model written as a hoc template or a SONATA network.
`run_bionet`
    The script that such a network brings along to be run in BMTK.
"""
