"""What the command line does once the settings are known to be sound, a file a command."""


class CheckFailed(Exception):  # noqa: N818 (the program did its work)
    """What a command checked does not hold; its text is printed and the exit status is 1."""
