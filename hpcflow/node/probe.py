"""What a test of a cluster asks compute nodes: which Python they have, and what their shared file system keeps to.

One array task tells about its interpreter. Two of them, on two nodes, meet in a directory and race for names there.
Each writes signed lines into ``out/``; it never waits longer than its request says, and changes nothing elsewhere.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from hpcflow.core.bag import ClaimMethod, bag_key, sign_line, verify
from hpcflow.node.claims import Claims
from hpcflow.node.files import read_own
from hpcflow.node.worker import EXIT_REFUSED, identity

__all__ = ["probe"]

#: Rounds of each measurement.
_PINGS: Final = 10
_TURNS: Final = 100
#: Between two looks at a file: at first, and later.
_LOOK_S: Final = (0.002, 0.02)
#: How long a new name may stay unseen before that is all there is to say; NFS keeps "missing" for 60 s at most.
_UNSEEN_S: Final = 70.0


class _Gone(Exception):
    """The other array task did not answer in time."""


def probe(directory: str, key_file: str) -> int:
    """Do what ``probe.json`` asks and write down what was seen; return the exit code."""
    raw = read_own(os.path.join(directory, "probe.json"))
    signature = read_own(os.path.join(directory, "probe.sig")).decode("ascii")
    asked: dict[str, Any] = json.loads(raw)  # Any: JSON
    key = bag_key(read_own(key_file, private=True), str(asked["probe"]))
    if not verify(raw, signature, key):
        print(f"probe.json in {directory} isn't signed with this cluster's key.", file=sys.stderr)
        return EXIT_REFUSED
    me = identity(os.environ)
    name = f"{me.job}_{me.array_index}_{me.restart}"
    fd = os.open(os.path.join(directory, "out", f"{name}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def tell(event: str, **fields: object) -> None:
        os.write(fd, sign_line({"ev": event, "i": me.array_index, **fields}, key))
        os.fsync(fd)

    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    tell("up", node=node, py=list(sys.version_info[:3]), exe=sys.executable, pickles=_round_trip())
    if asked["width"] == 2:
        try:
            _Meeting(directory, me.array_index, asked["claims"], asked["wait_s"], tell).hold()
        except _Gone:
            tell("alone")
    tell("done")
    return 0


def _round_trip() -> str | None:
    """Return why a function does not survive cloudpickle here, ``None`` if it does."""
    import pickle

    import cloudpickle

    offset = 1

    def later(x: int) -> int:
        return x + offset

    try:
        returned = pickle.loads(cloudpickle.dumps(later, protocol=4))(41)
    except Exception as error:  # whatever it is, it is the answer
        return f"{type(error).__name__}: {error}"
    return None if returned == 42 else f"42 came back as {returned!r}"


class _Meeting:
    """One of two array tasks that look at one directory."""

    def __init__(self, directory: str, index: int, claims: int, wait_s: float, tell: Callable[..., None]) -> None:
        self._directory = directory
        self._first = index == 0
        self._mine = os.path.join(directory, f"talk-{index}")
        self._theirs = os.path.join(directory, f"talk-{1 - index}")
        self._claims = claims
        self._wait_s = wait_s
        self._tell = tell
        self._index = index
        self._lag_s = 0.0

    def hold(self) -> None:
        self._say("here")
        self._hear("here")
        self._measure_lag()
        self._measure_new_name()
        self._watch_order()
        for method in ("link", "mkdir"):
            self._race(method)

    # ---- talking: each appends lines to a file of its own, which existed before either began

    def _say(self, word: str) -> None:
        fd = os.open(self._mine, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{word}\n".encode())
        os.fsync(fd)
        os.close(fd)

    def _hear(self, word: str) -> None:
        self._until(lambda: word in _lines(self._theirs), self._wait_s)

    def _until(self, look: Callable[[], bool], wait_s: float) -> None:
        began = time.monotonic()
        while not look():
            waited = time.monotonic() - began
            if waited > wait_s:
                raise _Gone
            time.sleep(_LOOK_S[waited > 1])

    # ---- measuring

    def _measure_lag(self) -> None:
        """Measure how long a line that one node appends stays unseen by the other."""
        trips: list[float] = []
        for ping in range(_PINGS):
            began = time.monotonic()
            if self._first:
                self._say(f"ping {ping}")
                self._hear(f"pong {ping}")
                trips.append(time.monotonic() - began)
            else:
                self._hear(f"ping {ping}")
                self._say(f"pong {ping}")
        if trips:
            self._lag_s = statistics.median(trips) / 2
            self._tell("lag", median_s=round(self._lag_s, 4), most_s=round(max(trips) / 2, 4))

    def _measure_new_name(self) -> None:
        """Measure how long a new name stays unseen by a node that had found it missing."""
        name = os.path.join(self._directory, "new")
        if self._first:
            self._hear("missing")
            began = time.monotonic()
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._until(lambda: "seen" in _lines(self._theirs), _UNSEEN_S + self._wait_s)
            self._tell("name", seen_s=round(max(0.0, time.monotonic() - began - self._lag_s), 4))
        else:
            os.path.exists(name)
            self._say("missing")
            began = time.monotonic()
            while not os.path.exists(name) and time.monotonic() - began < _UNSEEN_S:
                time.sleep(_LOOK_S[1])
            self._say("seen")

    def _watch_order(self) -> None:
        """Watch from one node whether what another one appended and then renamed is seen in that order, and whole."""
        log, mark = os.path.join(self._directory, "log"), os.path.join(self._directory, "mark")
        if self._first:
            fd = os.open(log, os.O_WRONLY | os.O_APPEND)
            for turn in range(1, _TURNS + 1):
                os.write(fd, f"{turn}\n".encode())
                os.fsync(fd)
                part = f"{mark}.part"
                with open(part, "w", encoding="ascii") as file:
                    file.write(f"{turn}\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(part, mark)
            os.close(fd)
            self._hear("watched")
            return
        early = torn = looks = 0
        seen = 0
        began = time.monotonic()
        while seen < _TURNS and time.monotonic() - began < self._wait_s:
            try:
                with open(mark, encoding="ascii") as file:
                    text = file.read()
            except FileNotFoundError:  # a rename that is none: for a moment there was no file
                torn += 1
                continue
            looks += 1
            if not text.endswith("\n"):
                torn += 1
                continue
            seen = int(text)
            early += len(_lines(log)) < seen
        self._tell("order", looks=looks, early=early, torn=torn, seen=seen)
        self._say("watched")

    def _race(self, method: ClaimMethod) -> None:
        """Claim every name in order, at the same time as the other."""
        claims = Claims(
            os.path.join(self._directory, f"race-{method}"),
            str(self._index),
            ranges=self._claims,
            start=0,
            nfs=True,
            method=method,
        )
        self._say(f"race {method}")
        self._hear(f"race {method}")
        if not self._first:
            self._say(f"go {method}")
            time.sleep(self._lag_s)
        else:
            self._hear(f"go {method}")
        won = [k for k in range(self._claims) if claims.take(k)]
        self._tell("race", method=method, links=claims.by_links, won=won)


def _lines(path: str) -> list[str]:
    """Return a file's lines, opened anew: a network file system looks at a file again when it is opened."""
    with open(path, encoding="ascii") as file:
        return file.read().split("\n")[:-1]
