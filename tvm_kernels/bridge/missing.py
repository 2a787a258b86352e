"""The error of an operator that no kernel serves."""


class MissingKernelError(RuntimeError):
    """A kernel was asked for and there is none; the message says what to do."""
