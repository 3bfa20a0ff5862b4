"""The errors that are the user's to mend."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one paragraph that names the file or key, says what was expected, what was found,
    and what to do next. The command line prints it as it is and exits with code 2.
    """
