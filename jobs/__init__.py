"""What a user submits: job files, the command line, the job kinds, reports."""
