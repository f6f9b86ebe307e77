"""The one exception that is meant for the user."""


class UserError(ValueError):
    """A mistake the user can mend. Every command prints it as one line and exits with code 2.

    The message names the value, the rule it breaks and the remedy.
    """
