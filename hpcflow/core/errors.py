"""The roots of all errors; apart from the model, because workers need them and shall start fast."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HpcflowError", "NotFound", "UserError", "WrongArguments"]


class HpcflowError(Exception):
    """Every error that hpcflow raises by itself; its text is a sentence for the person who runs the workflow."""

    #: What IPython calls for the lines to show; there where users' programs are, which `hpcflow.sdk.mistakes` sees to.
    _render_traceback_: Callable[[HpcflowError], list[str]]


class UserError(HpcflowError):
    """Something the caller wrote can't work: a misspelt resource, an unknown executor, an unpicklable argument."""


class WrongArguments(UserError, TypeError):
    """An electron or a lattice is called with arguments that its function does not take; Python's own kind as well."""


class NotFound(HpcflowError):
    """Nothing here has the name or id that was asked for."""
