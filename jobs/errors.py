"""What a job can end with other than success, and the exit code of each."""


class JobError(Exception):
    """The job cannot go on; the message says why and what to do. Exit code 1."""


class UsageError(Exception):
    """The job file, the folder or the command line is wrong. Exit code 2."""


class Interrupted(Exception):
    """The user stopped the job; the run folder can be resumed. Exit code 130."""
