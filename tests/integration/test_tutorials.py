"""Covalent's kinds of programs run here unchanged, but for their import line."""

from __future__ import annotations

from tests.integration.tutorials import PROGRAMS, printed_and_promised
from tests.integration.world import User


def test_programs_of_covalent_s_kinds_run_as_they_are(user: User) -> None:
    printed, promised = printed_and_promised(user)
    assert len(promised) == 11
    assert printed == promised


def test_they_name_nothing_that_covalent_has_not() -> None:
    texts = [path.read_text("utf-8") for path in PROGRAMS.glob("*.py")]
    assert all(text.count("hpcflow") == 1 and "import hpcflow as ct\n" in text for text in texts)
