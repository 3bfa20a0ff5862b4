"""``neurofleet new``: a job file for the files at hand, with what was seen in them as comments."""
