"""The error that a user can mend: one line that says what is wrong, where, and what to do."""


class InputError(ValueError):
    """Bad input from outside: a config, a file, an argument. Commands exit with status 2."""
