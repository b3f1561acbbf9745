"""Why jobs wait on PBS and LSF, in plain words; what is in no table stays the scheduler's own."""

from __future__ import annotations

import pytest

from hpcflow_lsf import LsfPlugin
from hpcflow_pbs import PbsPlugin

PBS = PbsPlugin(python="", worker="", root="")
LSF = LsfPlugin(python="", worker="", root="")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("Q", "Was not looked at yet: the scheduler's next round will"),
        ("Q Not Running: Not enough free nodes available", "Waits for enough free nodes"),
        (
            "Q Not Running: Insufficient amount of resource: ngpus (R: 4 A: 0 T: 8)",
            "Waits for enough GPUs to become free",
        ),
        (
            "Q Not Running: Insufficient amount of server resource: matlab (R: 1 A: 0 T: 2)",
            "Waits for matlab that the whole site shares",
        ),
        (
            "Q Can Never Run: Insufficient amount of resource: ncpus (R: 500 A: 64 T: 64)",
            "Never starts: asks for more cores than there is",
        ),
        (
            "Q Not Running: User has reached queue gpu running job limit.",
            "Waits for others to end: you may have no more at once",
        ),
        (
            "Q Not Running: would exceed project chem's limit on resource ncpus in complex",
            "Waits for others to end: your project may have no more at once",
        ),
        (
            "Q Not Running: Job would conflict with reservation or top job",
            "Waits its turn: it would delay a reservation, or a job ahead of it",
        ),
        ("Q Not Running: Queue not started.", "Waits for its queue, which starts no jobs now"),
        (
            "Q Not Running: Number of concurrent running subjobs limit reached",
            "Waits for others of its array: no more of them may run at once",
        ),
        ("H Hold_Types=u", "Is held by you"),
        ("H Hold_Types=o", "Is held by an operator"),
        ("H Hold_Types=s depend=afterok:7.pbs01@pbs01", "Waits for another job that it depends on"),
        ("H Job held by ada on Mon Oct  3 20:16:26 2022", "Is held by you"),
        ("H", "Is held"),
        ("W", "Has an earliest time to begin, which has not come yet"),
        ("Q Not Running: Mercury is in retrograde", None),
        ("Q Can Never Run: Mercury is in retrograde", "Never starts: asks for what this cluster can't give"),
        ("R Job run at Sun Nov 22", None),
        ("S", "Is suspended: an operator, or a job that goes first, has its cores; it goes on after that"),
        ("", None),
    ],
)
def test_pbs_comments_have_their_meaning(raw: str, words: str | None) -> None:
    assert PBS.why_pending(raw) == words


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("PEND", "Was not looked at yet: the scheduler's next round will"),
        (
            "PEND New job is waiting for scheduling;",
            "Was not looked at yet: the scheduler's next round will",
        ),
        (
            "PEND The user has reached his/her job slot limit;",
            "Waits for others to end: you may have no more at once",
        ),
        ("PEND The job array has reached its job slot limit.", "Waits for others of its array"),
        ("PEND Job dependency condition not satisfied;", "Waits for another job that it depends on"),
        (
            "PEND Dependency condition invalid or never satisfied;",
            "Never starts: the job that it depends on did not end as it had to",
        ),
        (
            "PEND Job's resource requirements not satisfied: 3 hosts;",
            "Waits for hosts that have what it asks for and are free",
        ),
        ("PEND Not enough job slot(s): 2 hosts;", "Waits for enough free cores"),
        ("PEND Closed by LSF administrator: 4 hosts;", "Waits for hosts that are closed or down"),
        ("PSUSP The job was suspended by the user while pending;", "Is held by you"),
        ("PSUSP Job was suspended by LSF admin or root while pending;", "Is held by an administrator"),
        ("PSUSP", "Is held"),
        ("USUSP", "Is suspended: you or an administrator stopped it; it goes on after `bresume`"),
        ("PEND Mercury is in retrograde;", None),
        ("RUN", None),
    ],
)
def test_lsf_reasons_have_their_meaning(raw: str, words: str | None) -> None:
    assert LSF.why_pending(raw) == words
