"""The one exception for mistakes a user can make and mend."""


class UserError(Exception):
    """A mistake of the user's: one line that names the file, key or value, and what would be right.

    ``main.py`` prints it without a traceback and exits with status 2.
    """
