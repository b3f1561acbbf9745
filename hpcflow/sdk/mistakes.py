"""What a script or a notebook shows of an error of hpcflow's own: its sentence and the user's line, not our frames."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Final

from hpcflow.core.errors import HpcflowError, UserError
from hpcflow.sdk.plain import plain

__all__ = ["show_plainly", "users_line"]

#: Set to 1, it brings Python's whole traceback back.
_WHOLE: Final = "HPCFLOW_TRACEBACK"


def show_plainly() -> None:
    """From now on, an error of hpcflow's own that nobody catches is shown as a sentence.

    Whoever shows errors in another way already (IPython, a debugger) goes on as before.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show


def _show(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if not isinstance(error, HpcflowError) or _is_whole_wanted():
        sys.__excepthook__(kind, error, frames)
        return
    print(_plainly(error, frames), file=sys.stderr)


def _is_whole_wanted() -> bool:
    return os.environ.get(_WHOLE, "0") not in {"", "0"}


def _plainly(error: HpcflowError, frames: TracebackType | None) -> str:
    place = users_line(frames) if isinstance(error, UserError) else ""
    return f"{place}{plain(str(error))}"


def _rendered(error: HpcflowError) -> list[str]:
    """Return the lines that IPython and Jupyter show of an uncaught error of ours."""
    if _is_whole_wanted():
        from traceback import format_exception

        return "".join(format_exception(error)).splitlines()
    return _plainly(error, error.__traceback__).splitlines()


# IPython asks an exception itself how it wants to be shown; so nobody's hook is in anybody's way there.
HpcflowError._render_traceback_ = _rendered


def users_line(frames: TracebackType | None) -> str:
    """Return the innermost line of the user's own that led to a mistake, as Python writes it; "" if there is none."""
    from traceback import StackSummary, walk_tb  # only on the way out

    lines = ""
    for frame, number in walk_tb(frames):
        name: str = frame.f_globals.get("__name__", "")
        path = os.path.abspath(frame.f_code.co_filename)
        if name.partition(".")[0] != "hpcflow" and not path.startswith(_LIBRARY) and "site-packages" not in path:
            lines = "".join(StackSummary.extract([(frame, number)]).format())
    return lines


_LIBRARY: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
