"""The one exception that says: what was given is wrong, not the program."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the field or file, the value, and what is allowed.
    The command line prints it without a traceback and exits with code 2.
    """
