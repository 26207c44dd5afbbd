"""The one exception for what a user can fix."""


class InputError(ValueError):
    """Bad input, configuration, file or environment.

    The message names what is wrong, the value received and the remedy. Commands print it and exit with code 2.

    Example:
        >>> from itda_lightning import InputError
        >>> raise InputError("k must be at least 1, got 0")
        Traceback (most recent call last):
        itda_lightning.errors.InputError: k must be at least 1, got 0
    """
