"""Covalent's kinds of programs on a real Slurm."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Login
from tests.integration.tutorials import printed_and_promised

pytestmark = pytest.mark.cluster


def test_programs_of_covalent_s_kinds_run_on_slurm_as_they_are(login: Login) -> None:
    before, submitted = set(login.user.dispatches()), len(login.calls("sbatch"))
    printed, promised = printed_and_promised(login.user)
    assert printed == promised
    shown = [login.user.asks("show", dispatch) for dispatch in {*login.user.dispatches()} - before]
    tasks = sum(sum(each["counts"].values()) for each in shown)
    assert 0 < len(login.calls("sbatch")) - submitted < tasks
