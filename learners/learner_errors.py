"""The errors of the learners, each one paragraph that says what to do next."""

from neurofleet.errors import NeurofleetError


class LearnerError(NeurofleetError):
    """Something a learner cannot work with. The command line prints it as it is.

    Attributes
    ----------
    exit_code : int
        What the command line exits with.
    """

    exit_code = 1


class CellsRefused(LearnerError):
    """Cells, genes, values or labels that cannot be used."""

    exit_code = 2
