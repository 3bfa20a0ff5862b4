"""``neurofleet`` and ``python -m neurofleet``: the command line."""

import os
import sys


def main() -> None:
    """Run the command line; modules are looked for in the working folder last of all."""
    working_folder_last()
    from neurofleet.jobs.cli import main as command_line

    command_line()


def working_folder_last() -> None:
    """Have a random.py or numpy.py that a user keeps in the working folder take no module's place.

    ``python -m`` looks there first, and so does an empty part of PYTHONPATH, as in ``export PYTHONPATH=:/some/folder``.
    """
    here = os.getcwd()
    others = [path for path in sys.path if os.path.abspath(path) != here]
    sys.path[:] = others if len(others) == len(sys.path) else [*others, here]


if __name__ == "__main__":
    main()
