from robustnorm.system.errors import RefusedFileError, UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file and what to do."""


class RefusedDataError(DataError, RefusedFileError):
    """A file of images is damaged or unsafe to read."""
