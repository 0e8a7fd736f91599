"""Errors that a user can act on.

Every message names what is wrong, where it is and how to put it right. Launchers turn an
`InputError` into one sentence on stderr and exit code 2; any other exception is a defect and keeps
its traceback.

    raise SessionError("frame 12 is missing", where=path, fix="record the session again")
"""

from __future__ import annotations

import os


class InputError(ValueError):
    """Bad input: a file, a value or a combination of settings that cannot be used.

    Attributes:
      what: what is wrong, without a trailing full stop.
      where: file, field or tensor concerned, or None.
      fix: what the user can do about it, or None.
    """

    def __init__(
        self, what: str, *, where: str | os.PathLike[str] | None = None, fix: str | None = None
    ):
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.fix = fix
        message = what if self.where is None else f"{self.where}: {what}"
        super().__init__(message if fix is None else f"{message}. {fix}")


class ConfigError(InputError):
    """A configuration field is unknown, has the wrong type or contradicts another field."""


class SessionError(InputError):
    """A recorded session is missing, corrupt or inconsistent."""


class EpisodeError(InputError):
    """A recorded episode is missing, corrupt or inconsistent."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class RecordError(InputError):
    """An attention record is missing, damaged or does not fit its token layout."""


class MissingInputError(RecordError):
    """What an analysis needs was not recorded, which is no damage: it may be left out."""


class LayoutError(InputError):
    """A token group is unknown or does not fit the axis it is applied to."""


class NonFiniteError(InputError):
    """A loss, gradient or prediction is NaN or infinite."""


class DiskFullError(InputError):
    """A write failed because the disk or the configured quota is full."""
