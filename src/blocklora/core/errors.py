"""The one exception tree of blocklora.

    BlockloraError
    ├── ConfigError (ValueError)   an option or argument has a value that cannot work
    ├── DataError (ValueError)     a data set, image or label is missing or unusable
    │   └── ImageError             one image file cannot be read
    ├── ModelError (ValueError)    a CLIP checkpoint cannot be loaded or is of another kind
    ├── RunError (ValueError)      a RUN folder is missing, incomplete, damaged or in the way
    │   └── LostRankError          another process that shares the run has ended
    ├── RankStoppedError           the first of several processes has stopped, and the others with it
    └── SealedTestError            code touched the test images before training had ended

Every message names the file or value, says what was expected, and what to do. The command line prints it as
one line and exits with 1; anything that is not a ``BlockloraError`` is a bug or the machine's own failure.
"""

from __future__ import annotations

__all__ = [
    "BlockloraError",
    "ConfigError",
    "DataError",
    "ImageError",
    "LostRankError",
    "ModelError",
    "RankStoppedError",
    "RunError",
    "SealedTestError",
]


class BlockloraError(Exception):
    """Base of every error that blocklora raises on purpose."""


class ConfigError(BlockloraError, ValueError):
    """An option or argument has a value that cannot work."""


class DataError(BlockloraError, ValueError):
    """A data set, image or label is missing or unusable."""


class ImageError(DataError):
    """One image file cannot be read as an image."""


class ModelError(BlockloraError, ValueError):
    """A CLIP checkpoint cannot be loaded, or is not a CLIP model."""


class RunError(BlockloraError, ValueError):
    """A RUN folder is missing, incomplete, damaged, or in the way."""


class LostRankError(RunError):
    """Another process that shares the run has ended."""


class RankStoppedError(BlockloraError):
    """The first of several processes has said why it stops, and the others stop with it: nothing is left to say."""


class SealedTestError(BlockloraError):
    """Code touched the test images before training had ended; this is a bug in a method, never a user's."""
