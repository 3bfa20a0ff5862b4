"""``python -m neurofleet``: the command line."""

from neurofleet.jobs.cli import main

main()
