"""What a user submits: job files, the command line, and the kinds of jobs."""
