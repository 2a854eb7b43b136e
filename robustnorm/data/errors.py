from robustnorm.errors import UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file and the repair."""
