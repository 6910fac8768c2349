"""The one kind of error that a user can mend: every message says what was given, what is allowed and what to do."""


class UserError(ValueError):
    """Bad input or a missing file: shown as one line, exit code 1. Anything else is a bug and keeps its traceback."""
