"""What browsers are told of changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from hpcflow.core.model import DispatchId
from hpcflow.core.states import State
from hpcflow.server.news import CODES, News
from hpcflow.server.page import told

ONE, OTHER = DispatchId("A" * 26), DispatchId("B" * 26)


def test_every_state_has_a_letter_of_its_own() -> None:
    assert set(CODES) == set(State)
    assert len(set(CODES.values())) == len(State)


def test_changes_of_a_dispatch_come_as_one_with_the_last_of_each_task() -> None:
    news = News()
    news.add(ONE, 1, [(0, State.RUNNING), (1, State.QUEUED)])
    news.add(OTHER, 1, [])
    news.add(ONE, 2, [(0, State.COMPLETED)])
    found = news.since(0)
    assert found is not None
    assert (found[ONE].version, found[ONE].moves) == (2, {0: "c", 1: "q"})
    assert found[OTHER].moves == {}
    assert list(news.since(2) or ()) == [ONE]
    assert news.since(3) == {}


def test_who_missed_more_than_is_kept_is_told_so() -> None:
    news = News(kept=10)
    for number in range(20):
        news.add(ONE, number, [(number, State.RUNNING)])
    assert news.since(0) is None
    assert news.since(15) is not None
    assert news.since(21) is None


async def events(stream: AsyncIterator[bytes], count: int) -> list[tuple[str, str, object]]:
    found: list[tuple[str, str, object]] = []
    async for block in stream:
        if block.startswith(b":"):
            continue
        fields = dict(line.split(": ", 1) for line in block.decode().strip().split("\n"))
        found.append((fields["id"], fields["event"], json.loads(fields["data"])))
        if len(found) == count:
            break
    return found


def test_a_stream_begins_with_where_it_is_and_goes_on_with_what_moves() -> None:
    async def run() -> list[tuple[str, str, object]]:
        news = News()
        stream = told(news, "e", None, lambda: False)
        first = await events(stream, 1)
        news.add(ONE, 7, [(3, State.FAILED)])
        await news.ring()
        return first + await events(stream, 1)

    moved = {"dispatches": {ONE: {"version": 7, "moves": {"3": "f"}}}}
    assert asyncio.run(run()) == [("e.0", "hello", {}), ("e.1", "moved", moved)]


def test_a_stream_resumes_after_its_last_event_and_knows_what_it_can_t_resume() -> None:
    async def run(last: str, count: int) -> list[tuple[str, str, object]]:
        news = News(kept=10)
        for number in range(20):
            news.add(ONE, number, [(number, State.RUNNING)])
        return await events(told(news, "e", last, lambda: False), count)

    hello, moved = asyncio.run(run("e.18", 2))
    assert hello[:2] == ("e.18", "hello")
    assert moved == ("e.20", "moved", {"dispatches": {ONE: {"version": 19, "moves": {"18": "r", "19": "r"}}}})
    assert [event[:2] for event in asyncio.run(run("e.1", 2))] == [("e.1", "hello"), ("e.20", "reset")]
    for unknown in ("other.18", "e.x", "", "e.21", "e.99999999999999999999999"):
        assert asyncio.run(run(unknown, 1))[0][:2] == ("e.20", "reset")


def test_a_stream_ends_with_the_server() -> None:
    async def run() -> list[bytes]:
        return [block async for block in told(News(), "e", None, lambda: True)]

    assert len(asyncio.run(run())) == 1
