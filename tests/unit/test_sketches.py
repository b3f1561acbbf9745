"""A graph that is looked at before it is dispatched: what the server keeps of it, and how `draw` shows it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import hpcflow as hf
from hpcflow.core.model import ClusterName, Graph, NotFound, Resources, Shape, UserError
from hpcflow.server.manifest import Manifest, read_graph
from hpcflow.server.sketches import Sketches
from tests.unit.fake_server import FakeServer, write_record
from tests.unit.mini_world import a_manifest, a_stage
from tests.unit.served import FIRST, OTHER, an_upload, served
from tests.unit.served import a_manifest as a_sent_manifest
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service

SKETCH = "01K0000000000000000000000S"
NO_BROWSER = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "JUPYTERHUB_SERVICE_PREFIX")


class Clock:
    """Stands until a test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def read(manifest: Manifest) -> tuple[Graph, list[Shape]]:
    graph = read_graph(manifest)
    shape = Shape(
        cluster=ClusterName("mini"),
        resources=Resources(cpus=2, memory_mib=512),
        python="python3",
        python_version=(3, 11),
    )
    return graph, [shape] * len(graph.tasks)


# ---- what is kept


@in_loop
async def test_a_sketch_is_the_graph_in_columns_and_a_row_for_all_that_asks_for_the_same(tmp_path: Path) -> None:
    async with a_stage(tmp_path) as stage:
        service = a_service(stage)
        manifest = a_manifest((), (), (0, 1), memory_mib=512)
        for each in manifest["tasks"][:2]:
            each[0] = "relax"
        known = await service.sketches.add(manifest)
        assert json.loads(service.sketches.graph(known)) == {
            "tasks": 3,
            "name": [0, 0, 1],
            "needs": [0, 0, 1],
            "names": ["relax", "step2"],
            "sets": [[], [0, 1]],
            "levels": [],
        }
        told = service.sketches.told(known)
        assert (told["name"], told["tasks"], told["electrons_total"]) == ("flow", 3, 2)
        assert [(row["name"], row["tasks"], row["cluster"]) for row in told["electrons"]] == [
            ("relax", 2, "mini"),
            ("step2", 1, "mini"),
        ]
        assert told["electrons"][0]["asked"]["memory_mib"] == 512
        assert (await service.questions.listed(10, None, None))["total"] == 0
        assert stage.world.jobs == []
        elsewhere = a_manifest(())
        elsewhere["shapes"][0]["executor"] = "slrum"
        with pytest.raises(UserError, match="There is no executor 'slrum'"):
            await service.sketches.add(elsewhere)


@in_loop
async def test_the_last_eight_are_kept_for_an_hour() -> None:
    clock = Clock()
    sketches = Sketches(read, now=clock)
    first, *others = [await sketches.add(a_manifest(())) for _ in range(9)]
    with pytest.raises(NotFound, match=r"the last 8, for an hour and as long as it runs\. Call draw\(\) again\."):
        sketches.graph(first)
    clock.time += timedelta(minutes=59)
    newest = await sketches.add(a_manifest(()))
    assert sketches.told(others[1])["tasks"] == 1
    clock.time += timedelta(minutes=2)
    with pytest.raises(NotFound):
        sketches.told(others[-1])
    assert sketches.told(newest)["made_at"] == "2026-01-01T00:59:00.000Z"


def test_a_sketch_is_an_upload_of_which_no_file_is_left(tmp_path: Path) -> None:
    media = {"Content-Type": "application/x-hpcflow-dispatch"}
    with served(tmp_path) as server:
        answer = server.ask("POST", "/api/v1/sketches", body=an_upload(), headers=media)
        assert (answer.status, answer.json["id"]) == (201, FIRST)
        assert server.ask("GET", f"/api/v1/sketches/{FIRST}").json["name"] == "grid"
        assert server.ask("GET", f"/api/v1/sketches/{FIRST}/graph").json["levels"] == []
        assert server.ask("GET", f"/api/v1/sketches/{OTHER}").status == 404
        wrong = an_upload(a_sent_manifest(name="refused"))
        refused = server.ask("POST", "/api/v1/sketches", body=wrong, headers=media)
        assert (refused.status, refused.error) == (422, "There is no executor 'slrum'.")
        cut = server.ask("POST", "/api/v1/sketches", body=an_upload()[:-9], headers=media)
        assert cut.status == 422
        assert list((server.folder / "dispatches").iterdir()) == []
        assert server.service.manifests == {}


# ---- draw()


@hf.electron
def square(x: int) -> int:
    return x * x


@hf.lattice
def flow(x: int) -> list[int]:
    return [square(x), square(x + 1)]


@pytest.fixture
def quiet(hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, with nothing that shows a browser."""
    for name in NO_BROWSER:
        monkeypatch.delenv(name, raising=False)
    return hpcflow_home


def a_server(home: Path, *, page: bool = True, forward: str | None = None) -> FakeServer:
    server = FakeServer(home)
    server.answers["POST", "/sketches"] = (201, {"id": SKETCH, "page": page})
    server.answers["POST", "/ui"] = (200, {"url": "http://127.0.0.1:8123/#c0de", "ssh_forward": forward})
    return server


def test_draw_says_where_the_graph_is_seen_and_sends_no_value_of_it(
    quiet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_server(quiet, forward="ssh -N -L 8123:127.0.0.1:8123 ada@login1") as server:
        assert flow.draw(3).startswith("flowchart TD")
    (sent,) = server.sent("POST", "/sketches")
    assert {size for size, _ in sent.manifest["blobs"]} == {0}
    assert sent.manifest["functions"] == {}
    assert [task[0] for task in sent.manifest["tasks"]] == ["square", "square"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "From your own machine, first: ssh -N -L 8123:127.0.0.1:8123 ada@login1",
        f"The graph is drawn at http://127.0.0.1:8123/#c0de/preview/{SKETCH}",
    ]


def test_draw_opens_the_browser_that_the_user_names(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = quiet / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" > "$0.url"\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", str(browser))
    with a_server(quiet):
        flow.draw(3)
    assert Path(f"{browser}.url").read_text() == f"http://127.0.0.1:8123/#c0de/preview/{SKETCH}"


def test_under_jupyterhub_the_place_is_that_of_its_proxy(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    with a_server(quiet):
        flow.draw(3)
    assert capsys.readouterr().err == f"The graph is drawn at /user/ada/proxy/8123/#c0de/preview/{SKETCH}\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((201, {"id": SKETCH, "page": False}), "Drawn as text only: the server was built without its page.\n"),
        ((400, {"error": "There is no executor 'slrum'."}), "Drawn as text only. There is no executor 'slrum'.\n"),
    ],
)
def test_what_keeps_a_graph_from_the_page_is_said_and_the_text_is_there(
    quiet: Path, capsys: pytest.CaptureFixture[str], answer: Any, said: str
) -> None:
    with a_server(quiet) as server:
        server.answers["POST", "/sketches"] = answer
        assert flow.draw(3).startswith("flowchart TD")
        assert server.sent("POST", "/ui") == []
    assert capsys.readouterr().err == said


def test_without_a_server_draw_is_text_alone_and_starts_none(
    quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HPCFLOW_AUTOSTART", raising=False)
    assert flow.draw(3).startswith("flowchart TD")
    assert list(quiet.iterdir()) == []
    write_record(quiet)  # of one that is gone
    (quiet / "token").write_text("the-token\n")
    assert flow.draw(3).startswith("flowchart TD")
    assert capsys.readouterr().err == ""
