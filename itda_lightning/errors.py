"""The one exception that stands for something a user can put right."""


class InputError(ValueError):
    """Bad input, configuration, file or environment.

    The message names what was wrong, the value received and the remedy. Commands print it and exit with code 2.
    """
