"""Every error a user can meet, in one tree.

Catch ``EmbedworksError`` to catch them all. Each class also inherits the builtin a Python
programmer would expect, so ``except ValueError`` keeps working::

    EmbedworksError
    |-- InputError (ValueError)              a value is not usable
    |   |-- ShapeError                       an array has the wrong shape
    |   |-- EmptyInputError                  nothing usable was given
    |   |-- DuplicateIdError                 an id occurs twice
    |   |-- NonFiniteError                   NaN or infinity in vectors
    |   |-- QuerySyntaxError                 a `where` filter cannot be parsed
    |   `-- SettingsError                    a recipe or option is invalid
    |-- UnknownNameError (KeyError)          a name is not registered ("did you mean")
    |-- NotFoundError (FileNotFoundError)    a file, folder, model or run does not exist
    |-- OfflineError (NotFoundError)         a hub name was asked for and no hub can be reached
    |-- FormatError (ValueError)             a file exists but is damaged or of another version
    |-- ParityError (FormatError)            a model does not reproduce its golden vectors
    |-- MissingExtraError (ImportError)      an optional dependency is not installed
    |-- BudgetError (ValueError)             a time or memory budget cannot be met
    |-- EndpointError (ConnectionError)      a service refuses requests or cannot be reached
    `-- StorageError (OSError)               a write failed; what was there before is intact

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "DataWarning",
    "DuplicateIdError",
    "EmbedworksError",
    "EmptyInputError",
    "EndpointError",
    "FormatError",
    "InputError",
    "MissingExtraError",
    "NonFiniteError",
    "NotFoundError",
    "OfflineError",
    "ParityError",
    "QuerySyntaxError",
    "SettingsError",
    "ShapeError",
    "StorageError",
    "UnknownNameError",
]


class EmbedworksError(Exception):
    """Root of all errors raised on purpose by embedworks."""


class InputError(EmbedworksError, ValueError):
    """A value given by the caller is not usable."""


class ShapeError(InputError):
    """An array has the wrong number of dimensions, rows or columns."""


class EmptyInputError(InputError):
    """Nothing usable was given: no documents, no queries, no vectors."""


class DuplicateIdError(InputError):
    """An id that must be unique occurs more than once."""


class NonFiniteError(InputError):
    """Vectors or scores contain NaN or infinity."""


class QuerySyntaxError(InputError):
    """A ``where`` filter cannot be parsed or names something that is not there."""


class SettingsError(InputError):
    """A recipe, an option or a settings object is invalid."""


class UnknownNameError(EmbedworksError, KeyError):
    """A name is not registered; the message lists close matches."""

    def __str__(self) -> str:
        # KeyError shows repr(args[0]), which hides line breaks and doubles quotes.
        return str(self.args[0]) if self.args else ""


class NotFoundError(EmbedworksError, FileNotFoundError):
    """A file, folder, model or run does not exist."""


class OfflineError(NotFoundError):
    """A model must come from a hub and no hub can be reached."""


class FormatError(EmbedworksError, ValueError):
    """A file exists but is damaged, half written or of another version."""


class ParityError(FormatError):
    """A loaded model does not reproduce the golden vectors saved with it."""


class MissingExtraError(EmbedworksError, ImportError):
    """An optional dependency is needed; the message has the install line."""


class BudgetError(EmbedworksError, ValueError):
    """A time or memory budget cannot be met."""


class EndpointError(EmbedworksError, ConnectionError):
    """A service refuses requests, answers out of protocol or cannot be reached."""


class StorageError(EmbedworksError, OSError):
    """A write failed (disk full, no permission); what was there before is intact."""


class DataWarning(UserWarning):
    """Something in the data was skipped or shortened; the message has the counts."""
