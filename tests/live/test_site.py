"""The suite of all schedulers on a real site, and what only a real one can show; see conftest.py for its variables."""

from __future__ import annotations

import os

from tests.integration.places import Place
from tests.integration.test_schedulers import (
    GATED,
    SQUARES,
    test_a_cancel_ends_what_runs_and_what_waits,
    test_a_cancel_of_single_tasks_ends_them_and_spares_those_that_share_their_array,
    test_a_lattice_runs_and_only_the_executors_name_differs,
    test_a_single_task_is_a_job_as_well,
    test_every_way_to_fail_is_told_for_what_it_is,
    test_the_queue_shows_our_own_jobs_and_which_dispatch_they_work_for,
    test_what_a_task_prints_is_kept,
)
from tests.integration.world import open_gate, until
from tests.live.conftest import DELETE, types

__all__ = [
    "test_a_cancel_ends_what_runs_and_what_waits",
    "test_a_cancel_of_single_tasks_ends_them_and_spares_those_that_share_their_array",
    "test_a_lattice_runs_and_only_the_executors_name_differs",
    "test_a_single_task_is_a_job_as_well",
    "test_every_way_to_fail_is_told_for_what_it_is",
    "test_the_queue_shows_our_own_jobs_and_which_dispatch_they_work_for",
    "test_what_a_task_prints_is_kept",
]


def test_the_site_answers_each_step_of_the_check(there: Place) -> None:
    checked = there.user.hpcflow("clusters", "test", there.name)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("ok ") >= 3


def test_a_job_that_the_user_deletes_pauses_its_tasks(there: Place) -> None:
    ledger, gate = there.user.folder / "ledger", there.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = there.dispatches(GATED, ledger, gate)
    until(lambda: there.noted(ledger))
    (job,) = there.jobs(dispatch)

    types(there, *DELETE[there.name], job)
    paused = until(lambda: there.user.asks("show", dispatch)["paused"])

    assert job in paused and "cancelled" in paused
    assert there.user.hpcflow("resume", dispatch).returncode == 0
    until(lambda: there.noted(ledger).count("before 0") == 2)
    open_gate(gate)
    assert there.ended(dispatch) == "COMPLETED", there.user.log()


def test_a_server_that_dies_goes_on_where_it_was(there: Place) -> None:
    ledger = there.user.folder / "ledger"
    dispatch = there.dispatches(SQUARES, 30, ledger)

    there.user.kills_the_server()
    assert there.user.hpcflow("start").returncode == 0

    assert there.ended(dispatch) == "COMPLETED", there.user.log()
    assert there.noted(ledger) == sorted(map(str, range(30)))
