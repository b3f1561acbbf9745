"""Timeline, efficiency, settings and log, on a real engine and store."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import Cause, NotFound
from hpcflow.core.places import Places
from hpcflow.server import insight_schema as schema
from hpcflow.server.own_log import log_version, read_log
from hpcflow.server.settings import Settings, cluster_settings, read_settings
from hpcflow.server.store import Jobs
from hpcflow.server.told_settings import told_settings
from tests.unit.mini_world import PlayedWorker, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import UNKNOWN, a_service, dispatched, ended

Json = dict[str, Any]  # Any: JSON


def ran(worker: PlayedWorker, k: int, task: int, at: float, wall_s: float, st: str = "ok", rss: int = 1000) -> None:
    """Claim a range of one task and run it until ``at``, seconds since the epoch."""
    worker.claim(k)
    worker.start(task)
    result: dict[str, Any] = (  # Any: JSON
        {"r": {"b": "gASIiC4="}} if st == "ok" else {"exc": "ValueError", "msg": "no", "kinds": ["ValueError"]}
    )
    worker.end(task, st, t=at, wall=wall_s, cpu=[wall_s / 2, 0.0], rss=rss, **result)


@in_loop
async def test_a_timeline_has_a_lane_for_each_worker_and_a_bar_for_each_attempt(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatch = await dispatched(service, stage, [], [], [], [])
        job = await stage.job()
        base = datetime.fromisoformat((await service.questions.summary(dispatch))["created_at"]).timestamp()
        one, slot = PlayedWorker(job, 0), PlayedWorker(job, 0, slot=1)
        ran(one, 0, 0, base + 20, 5)
        ran(slot, 1, 1, base + 30, 10, "error")
        store = stage.engine.writer.store
        await stage.until(lambda: len(store.attempts(dispatch)) == 2)
        live = await service.insight.timeline(dispatch)
        schema.Timeline.model_validate(live)
        assert [(lane["index"], lane["slot"]) for lane in live["lanes"]] == [(0, 0), (0, 1)]
        (array,) = live["arrays"]
        assert (array["job_id"], array["width"], array["waiting"]) == (job.id, 4, 3)
        columns = ("lane", "task", "from", "to", "end")
        assert {column: live["bars"][column] for column in columns} == {
            "lane": [0, 1],
            "task": [0, 1],
            "from": [15, 20],
            "to": [20, 30],
            "end": ["c", "f"],
        }
        assert [live["names"][name] for name in live["bars"]["name"]] == ["step0", "step1"]
        one.claim(2)
        one.start(2)
        await stage.until(lambda: Jobs(store).running(store.arrays(dispatch)[0].array))
        running = await service.insight.timeline(dispatch)
        assert [running["bars"][column][-1] for column in ("lane", "task", "to", "end")] == [0, 2, None, "r"]
        await service.steering.cancel(dispatch, [2])
        cancelled = await service.insight.timeline(dispatch)
        assert [cancelled["bars"][column][-1] for column in ("task", "end")] == [2, "x"]
        assert cancelled["bars"]["to"][-1] >= cancelled["bars"]["from"][-1]
        one.end(2, "cancelled", t=base + 40, wall=8, sig=15)
        await stage.until(lambda: len(store.attempts(dispatch)) == 3)
        told = (await service.insight.timeline(dispatch))["bars"]
        assert (told["end"], told["from"][-1], told["to"][-1]) == (["c", "f", "x"], 32, 40)
        ran(one, 3, 3, base + 41, 1)
        one.write(ev="exit", why="drained", n=3, t=base + 42, idle=0.5)
        await ended(service, dispatch)
        stage.world.end(job, 0, Cause.DONE, core_seconds="60")
        for index in (1, 2, 3):
            stage.world.end(job, index, Cause.CANCELLED)
        await stage.until(lambda: not stage.engine.bags)
        await stage.until(lambda: not stage.engine.writer.pending)
        over = await service.insight.timeline(dispatch)
        assert [array["waiting"] for array in over["arrays"]] == [0]
        assert (over["live"], over["lanes"][0]["cause"], over["unplaced"]) == (False, "done", 0)
        used = await service.insight.efficiency(dispatch)
        lost = {use["name"]: use["lost_core_s"] for use in used["electrons"]}
        assert lost == {"step0": 0.0, "step1": 10.0, "step2": 8.0, "step3": 0.0}
        with pytest.raises(NotFound):
            await service.insight.timeline(UNKNOWN)


@in_loop
async def test_what_electrons_asked_and_used_is_told_of_one_dispatch_and_of_all(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        dispatches = [await dispatched(service, stage, []) for _ in range(2)]
        for number, dispatch in enumerate(dispatches):
            worker = PlayedWorker(await stage.job(number), 0)
            ran(worker, 0, 0, 100.0, 4.0, rss=1024 * (number + 1))
            worker.leave()
            await ended(service, dispatch)
        answer = await service.insight.efficiency(dispatches[0])
        schema.EfficiencyOfDispatch.model_validate(answer)
        (use,) = answer["electrons"]
        assert (use["name"], use["cluster"], use["ended"], use["held_core_s"]) == ("step0", "mini", 1, 4.0)
        assert (use["used_core_s"], use["cores_p95"], use["rss_kib_max"]) == (2.0, 0.5, 1024.0)
        assert use["advice"]["options"] == ""
        every = await service.insight.lately(30)
        schema.EfficiencyOfDays.model_validate(every)
        (both,) = every["electrons"]
        assert (both["ended"], both["held_core_s"], both["rss_kib_max"]) == (2, 8.0, 2048.0)
        assert {each["id"] for each in every["dispatches"]} == set(dispatches)
        assert every["dispatches_total"] == 2


# ---- settings


def test_each_setting_is_told_with_who_said_it_and_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Places(str(tmp_path))
    Path(where.config).write_text("settle = 0.5\nbreaker = 3\n")
    monkeypatch.setenv("HPCFLOW_BREAKER", "7")
    settings = read_settings(where)
    Path(where.config).write_text("settle = 0.25\n")
    table = cluster_settings("here", "big", {"scheduler": "slurm", "walltime": 3600})
    answer = told_settings(settings, {"big": table}, where, os.environ)
    schema.EffectiveSettings.model_validate(answer)
    found = {each["name"]: each for each in answer["settings"]}
    assert set(found) == set(Settings.model_fields)
    assert all(each["about"] for each in found.values())
    told = ("value", "source", "pending")
    # Every amount has its unit: those without only count, or are no numbers.
    plain = {name for name, each in found.items() if each["unit"] is None and not isinstance(each["value"], str | list)}
    assert plain == {"first_width", "ramp_width", "chain_length", "breaker", "max_depth"}
    assert {found[name]["unit"] for name in ("linger", "max_upload", "keep_days")} == {"s", "bytes", "days"}
    assert [found["settle"][key] for key in told] == [0.5, "config.toml", 0.25]
    assert [found["breaker"][key] for key in told] == [7, "environment", None]
    assert [found["linger"][key] for key in told] == [10.0, "default", None]
    (cluster,) = answer["clusters"]
    assert cluster["said"] == [
        {"name": "scheduler", "value": "slurm", "unit": None, "source": "clusters.toml"},
        {"name": "walltime", "value": 3600, "unit": "s", "source": "clusters.toml"},
    ]


def test_a_file_that_the_next_start_would_refuse_is_told_before_it(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    settings = read_settings(where)
    Path(where.config).write_text("setle = 1\n")
    problem = told_settings(settings, {}, where, {})["problem"]
    assert problem is not None
    assert problem.startswith("The next start would fail.")
    assert "'setle'" in problem


# ---- the log


def test_the_log_is_read_in_entries_over_all_its_files_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    (tmp_path / "server.log.1").write_text("torn\n2026-01-01 10:00:00,001 INFO hpcflow.server: begins\n")
    path.write_text(
        "2026-01-01 10:00:01,500 ERROR hpcflow.server.engine: dispatch X can't go on\n"
        "Traceback (most recent call last):\n  File <script>\n"
        "2026-01-01 10:00:02,000 WARNING other: \x1b[31mred\x1b[0m\n"
    )
    answer = read_log(str(path), text="", level="INFO", limit=10)
    schema.ServerLog.model_validate(answer)
    assert [(entry["level"], entry["source"]) for entry in answer["entries"]] == [
        ("INFO", "hpcflow.server"),
        ("ERROR", "hpcflow.server.engine"),
        ("WARNING", "other"),
    ]
    assert answer["entries"][1]["text"].endswith("last):\n  File <script>")
    assert read_log(str(path), text="TRACEBACK", level="INFO", limit=10)["found"] == 1
    last = read_log(str(path), text="", level="WARNING", limit=1)
    assert ([entry["level"] for entry in last["entries"]], last["found"], last["total"]) == (["WARNING"], 2, 3)


def test_a_log_is_another_as_soon_as_something_was_written(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    assert read_log(str(path), text="", level="INFO", limit=1)["entries"] == []
    seen = [log_version(str(path))]
    for line in ("one", "two"):
        with path.open("a") as file:
            file.write(line)
        seen.append(log_version(str(path)))
    assert len(set(seen)) == 3
