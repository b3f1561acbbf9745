"""What the web page shows and asks, its script run in Node on a document of plain objects."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import hpcflow.server
from tests.unit.fake_server import DISPATCH, a_page, a_summary, a_task, a_usage

NODE = shutil.which("node") or shutil.which("nodejs")
PAGE = Path(hpcflow.server.__file__).parent / "static" / "app.js"
STATUS = {"home": "/home/u/.hpcflow", "host": "login1"}
SHOWN = f"GET /dispatches/{DISPATCH}"

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node here")

Json = dict[str, Any]  # Any: JSON


def shown(summary: Json | list[Json], *click: str, confirm: bool = True, **answers: object) -> Json:
    """Open a dispatch's page, click these buttons, and return what is there then, and what was asked."""
    known: Json = {
        "GET /status": STATUS,
        SHOWN: summary,
        f"{SHOWN}/usage": a_usage(sentences=["Used 90 %.", "2 used."]),
    }
    known |= {f"{SHOWN}/tasks": a_page(a_task(1, state="failed", error="ValueError: no"))}
    known |= {f"POST /dispatches/{DISPATCH}/{verb}": answer for verb, answer in answers.items()}
    plan = {"hash": f"#/{DISPATCH}", "answers": known, "click": click, "confirm": confirm}
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(Path(__file__).parent / "page.js"), str(PAGE)],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer: Json = json.loads(done.stdout)
    return answer


def running(**changes: object) -> Json:
    return a_summary(status="RUNNING", tasks=9, counts={"completed": 2, "running": 3, "queued": 4}, **changes)


def test_a_dispatch_that_has_ended_says_what_it_cost() -> None:
    page = shown(a_summary())
    assert page["buttons"] == []
    assert page["paragraphs"][-2:] == ["Used 90 %.", "2 used."]
    assert "usage" not in " ".join(shown(running())["asked"])


def test_a_job_that_waits_says_why_in_both_words() -> None:
    line = {"token": "t", "cluster": "slurm", "job_id": "41", "width": 2, "state": "submitted"}
    arrays = [{**line, "reason": "PENDING Priority", "why": "Waits its turn"}, {**line, "reason": "PENDING Moonphase"}]
    cells = shown(running(arrays=arrays))["cells"]
    assert [cells[4], cells[9]] == ["Waits its turn (PENDING Priority)", "PENDING Moonphase"]


def test_cancelling_names_the_tasks_and_jobs_and_asks_first() -> None:
    line = {"token": "t", "cluster": "slurm", "job_id": "41", "width": 2, "state": "submitted", "reason": None}
    summary = running(arrays=[line, {**line, "state": "ended"}])
    page = shown(summary, "Cancel", cancel={"message": "Cancelled 7 tasks."})
    assert page["questions"] == ['Cancel 7 tasks of "flow" (3 running, 4 waiting) and 1 job?']
    assert f'POST /dispatches/{DISPATCH}/cancel {{"tasks":null}}' in page["asked"]
    assert "Cancelled 7 tasks." in page["paragraphs"]
    page = shown(summary, "Cancel", confirm=False)
    assert not [asked for asked in page["asked"] if asked.startswith("POST")]


def test_a_dispatch_is_paused_or_resumed() -> None:
    paused = running(paused="You paused it.")
    page = shown([running(), paused], "Pause", pause={"message": "Nothing more is submitted."})
    assert page["buttons"] == ["Resume", "Cancel"]
    assert "Nothing more is submitted." in page["paragraphs"]
    page = shown([paused, running()], "Resume", resume={"message": "It goes on."})
    assert page["buttons"] == ["Pause", "Cancel"]


def test_what_failed_is_tried_again_also_when_the_dispatch_has_ended() -> None:
    failed = a_summary(status="FAILED", counts={"completed": 1, "failed": 1})
    page = shown([failed, running()], "Retry 1 failed", retry={"message": "1 task to run again."})
    assert f'POST /dispatches/{DISPATCH}/retry {{"failed_only":true}}' in page["asked"]
    assert page["buttons"] == ["Pause", "Cancel"]
    assert "1 task to run again." in page["paragraphs"]


def test_a_refusal_is_told_and_the_page_stays() -> None:
    refused = {"error_status": 409, "error": "Its results are gone."}
    page = shown(a_summary(status="FAILED", counts={"failed": 1}), "Retry 1 failed", retry=refused)
    assert "Its results are gone." in page["paragraphs"]
    assert page["buttons"] == ["Retry 1 failed"]


def test_what_others_wrote_is_text_and_never_markup() -> None:
    page = shown(a_summary(status="FAILED", error="<img src=x onerror=alert(1)>"))
    assert "<img src=x onerror=alert(1)>" in page["paragraphs"]
