"""Programs as Covalent's tutorials have them; each differs from one of Covalent's in its import line alone."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from tests.integration.world import User, begun, ended

PROGRAMS = Path(__file__).parents[1] / "tutorials"


def printed_and_promised(user: User) -> tuple[dict[str, str], dict[str, str]]:
    """Run all programs side by side; return what each printed last, with its stderr, and what it says it prints."""
    programs = {path.stem: path.read_text("utf-8") for path in sorted(PROGRAMS.glob("*.py"))}
    promised = {name: re.findall(r"^# prints: (.*)$", text, re.MULTILINE)[0] for name, text in programs.items()}
    printed = {}
    with ExitStack() as stack:
        running = {}
        for name, text in programs.items():
            folder = user.folder / name
            folder.mkdir()
            running[name] = stack.enter_context(begun(User(folder, user.environment), text, str(folder)))
        for name, program in running.items():
            out, err = ended(user, program)
            printed[name] = out.strip() if program.returncode == 0 else f"{out}{err}"
    return printed, promised
