"""What is kept for those that were asked about last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hpcflow.server.recent import Recent


def test_a_value_is_made_again_when_its_version_is_another_or_others_took_its_place() -> None:
    recent: Recent[str, str] = Recent(2)
    made: list[str] = []

    def get(key: str, version: int = 1) -> str:
        def make() -> str:
            made.append(f"{key}{version}")
            return made[-1]

        return recent.get(key, version, make)

    assert [get("a"), get("b"), get("a"), get("c"), get("a")] == ["a1", "b1", "a1", "c1", "a1"]
    assert made == ["a1", "b1", "c1"]  # b was asked for before a, so it gave way to c
    assert [get("b"), get("a", 2), get("a", 2), get("a")] == ["b1", "a2", "a2", "a1"]
    assert made == ["a1", "b1", "c1", "b1", "a2", "a1"]


def test_threads_that_ask_for_more_than_is_kept_get_what_they_asked_for() -> None:
    recent: Recent[int, int] = Recent(1)

    def get(key: int) -> int:
        return recent.get(key % 3, 0, lambda: key % 3)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(get, range(3000)))
    assert answers == [key % 3 for key in range(3000)]
