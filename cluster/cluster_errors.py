"""The errors of this package."""

from neurofleet.errors import NeurofleetError


class ClusterError(NeurofleetError):
    """Work that could not be placed, run or stored. The command line prints it as it is.

    Attributes
    ----------
    exit_code : int
        What the command line exits with.
    """

    exit_code = 1


class ClusterUnreachable(ClusterError):
    """No Ray cluster answers, or it refuses us."""

    exit_code = 3


class TokenRefused(ClusterUnreachable):
    """A Ray cluster needs a token, and does not accept ours."""


class RunFolderRefused(ClusterError):
    """The run folder holds something else, or another driver is writing it."""

    exit_code = 2
