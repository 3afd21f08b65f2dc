"""The errors a user may see, each with its exit code. One or two lines: what is wrong, where, what to type instead."""


class TesseraError(Exception):
    """Anything Tessera refuses on purpose; printed without a traceback unless `--debug`."""

    exit_code = 1


class ConfigError(TesseraError):
    """A recipe, a flag or a value on the command line is wrong."""

    exit_code = 2


class MissingInputError(ConfigError):
    """A stage was asked to run before the stage that makes its input."""


class DataError(TesseraError):
    """A file, shard or sample is damaged, missing or not what it says it is."""

    exit_code = 3


class Stopped(TesseraError):  # noqa: N818 - a request that was met, not a failure
    """Stopped on request before the end; the same line typed again resumes."""

    exit_code = 85


def out_of_memory(error: BaseException) -> bool:
    """Whether this is PyTorch saying that there is no memory left, on a GPU or in the machine."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
