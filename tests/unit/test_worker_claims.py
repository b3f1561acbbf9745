"""Claims: every range goes to one worker, whatever the file system says."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.node.claims import Claims, owned_by

real_link = os.link


def some_claims(folder: Path, *, workers: int, ranges: int, nfs: bool = False) -> list[Claims]:
    return [Claims(str(folder), f"1_{index}_0", ranges=ranges, start=index, nfs=nfs) for index in range(workers)]


def claim_in_turns(claims: list[Claims], turns: list[int]) -> list[list[int]]:
    """Let workers claim one range each in this order, then in a row, until nobody finds one."""
    won: list[list[int]] = [[] for _ in claims]
    waiting = set(range(len(claims)))
    while waiting:
        order = [turn % len(claims) for turn in turns] or [0]
        for worker in [worker for worker in order if worker in waiting] or sorted(waiting):
            k = claims[worker].next()
            if k is None:
                waiting.discard(worker)
            else:
                won[worker].append(k)
    return won


def test_with_ranges_of_their_own_workers_take_no_other_and_a_second_array_takes_none(tmp_path: Path) -> None:
    first, second, late = (
        Claims(str(tmp_path), f"{job}_{index}_0", ranges=2, start=index, nfs=False, method="index")
        for job, index in ((1, 0), (1, 1), (2, 1))
    )
    beyond = Claims(str(tmp_path), "1_2_0", ranges=2, start=2, nfs=False, method="index")
    assert [each.next() for each in (second, late, first, beyond)] == [1, None, 0, None]
    assert [each.next() for each in (first, second)] == [None, None]


def test_where_links_are_no_good_directories_decide(tmp_path: Path) -> None:
    first, second = (
        Claims(str(tmp_path), f"1_{index}_0", ranges=3, start=0, nfs=False, method="mkdir") for index in range(2)
    )
    assert [first.take(0), second.take(0), second.take(1)] == [True, False, True]
    assert all((tmp_path / str(k)).is_dir() for k in range(2))


@given(st.integers(1, 6), st.integers(0, 60), st.lists(st.integers(0, 5), max_size=40))
@settings(max_examples=40, deadline=None)
def test_every_range_is_claimed_once(
    tmp_path_factory: pytest.TempPathFactory, workers: int, ranges: int, turns: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("claims")
    won = claim_in_turns(some_claims(folder, workers=workers, ranges=ranges), turns)
    assert sorted(k for ranges_won in won for k in ranges_won) == list(range(ranges))
    for index, ranges_won in enumerate(won):
        assert owned_by(str(folder), [f"1_{index}_0"]) == set(ranges_won)


def test_a_lone_worker_needs_few_operations(tmp_path: Path) -> None:
    (claims,) = some_claims(tmp_path, workers=1, ranges=200)
    assert claim_in_turns([claims], [0]) == [list(range(200))]
    assert claims.operations <= 202


def test_without_hard_links_directories_are_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linking, other = some_claims(tmp_path, workers=2, ranges=4)
    assert linking.next() == 0

    def refuse(source: str, target: str) -> NoReturn:
        raise PermissionError(errno.EPERM, "no hard links here", source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    assert [other.next() for _ in range(4)] == [1, 2, 3, None]
    assert linking.next() is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1", "2", "3"]


def test_a_link_whose_reply_was_lost_on_nfs_is_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (claims,) = some_claims(tmp_path, workers=1, ranges=2, nfs=True)

    def link_and_lose_the_reply(source: str, target: str) -> NoReturn:
        real_link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", source, None, target)

    monkeypatch.setattr(os, "link", link_and_lose_the_reply)
    assert [claims.next(), claims.next()] == [0, 1]
    monkeypatch.setattr(os, "link", real_link)
    assert claims.next() is None


def test_any_other_refusal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (claims,) = some_claims(tmp_path, workers=1, ranges=1)

    def refuse(source: str, target: str) -> NoReturn:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="quota"):
        claims.next()
