"""squeue and sacct: one question each for any number of arrays, and the two answers merged.

The queue knows what lives, at once; accounting knows how it ended, a little later, and for ever. Neither is complete:
squeue forgets what ended MinJobAge ago (300 s by default), sacct has no row for array tasks that never started.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from hpcflow.core.batch import decoded
from hpcflow.core.model import Cause, JobArray, JobId, Observation, Observations, Phase, Resources, Stuck
from hpcflow.core.plugin import Command, Reply
from hpcflow_slurm.memory import BOOKS, Used, limit_kib, used_apart
from hpcflow_slurm.options import cluster_of, clusters_option
from hpcflow_slurm.states import SUSPENDED, canceller, state_of, stuck_of
from hpcflow_slurm.text import first_words, instant

__all__ = ["parse_query", "query"]

#: Epoch seconds, whole lists of indices, and times of the search in UTC whatever the cluster's zone (22.05: sacct
#: refuses ``-S @epoch`` and reads anything else in the zone of TZ).
_ENVIRONMENT: Final = {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "TZ": "UTC"}

# The name comes last: a name may hold any character, and what was cut has none.
_QUEUE_FIELDS: Final = "%i|%T|%r|%S|%e|%N|%j"
_ACCOUNTING_FIELDS: Final = "JobID,State,ExitCode,Start,End,CPUTimeRAW,NodeList,JobName"

#: How far the server's clock may be ahead of the cluster's.
_SKEW: Final = timedelta(minutes=10)

#: One argument of a command has at most 128 KiB on Linux. Beyond that we ask for all jobs of the user.
_NAMES_LIMIT: Final = 100_000

# sacct shows the end of the run before until the requeued one has a row of its own.
_PERHAPS_REQUEUED: Final = frozenset({Cause.NODE_FAIL, Cause.PREEMPTED})

_JOB: Final = re.compile(r"([1-9][0-9]*)(?:_([0-9]+|\[[0-9,:-]+(?:%[0-9]+)?\]))?")
_NO_HOST: Final = frozenset({"", "None assigned", "(null)", "None"})
_NO_REASON: Final = frozenset({"", "None"})
_LAST_SIGNAL: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One line of either answer."""

    token: str
    job_id: JobId
    #: ``None``: all array tasks of a cancelled job that have no row of their own.
    indices: tuple[int, ...] | None
    #: A row for one array task says more than a row for several, which may be stale.
    own: bool
    phase: Phase
    cause: Cause | None
    raw: str
    exit_code: int | None = None
    signal: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    core_seconds: float | None = None
    host: str | None = None
    by: str | None = None
    stuck: Stuck | None = None
    max_rss_kib: int | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    rows: tuple[_Row, ...] = ()
    #: Nothing was cut, skipped or refused: what is not in it is not there.
    whole: bool = True
    problems: tuple[str, ...] = ()
    #: Arrays about which it has a row that can't be read: it may say anything of these.
    doubtful: frozenset[str] = frozenset()

    def is_whole_about(self, token: str) -> bool:
        """Say whether nothing of what it had to say about an array was lost."""
        return self.whole and token not in self.doubtful


_Key = tuple[str, JobId, int]


def query(arrays: Sequence[JobArray], *, accounting: bool) -> tuple[Command, ...]:
    """Return squeue, and sacct where the cluster keeps accounting."""
    clusters = clusters_option(_asked(arrays))
    names = ",".join(dict.fromkeys(array.token for array in arrays))
    by_name = (f"--name={names}",) if len(names) <= _NAMES_LIMIT else ()
    squeue = (
        "squeue",
        *clusters,
        "--me",
        "--states=all",
        "--noheader",
        "--array",
        f"--format={_QUEUE_FIELDS}",
        *by_name,
    )
    since = (min(array.intent_at for array in arrays) - _SKEW).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    asked = ("-X", "-n", "-P", "-S", since, "-o", _ACCOUNTING_FIELDS, *by_name)
    sacct = ("sh", "-c", BOOKS, "hpcflow-books", *(clusters or ("",)), *asked)
    return tuple(Command(argv, environment=_ENVIRONMENT) for argv in ((squeue, sacct) if accounting else (squeue,)))


def parse_query(arrays: Sequence[JobArray], replies: Sequence[Reply]) -> Observations:
    """Merge squeue's answer with sacct's, if there is one.

    What the queue calls alive is alive. What it does not show, or shows ended, is as accounting says; without a final
    row there, as the queue says, but for a failure or a cancellation, of which accounting alone knows how and by whom.
    """
    widths = {array.token: array.width for array in arrays}
    filtered = len(",".join(widths)) <= _NAMES_LIMIT
    queue = _answer("squeue", replies[0], 7, _queue_row, widths, filtered=filtered)
    books, booked, unstarted = None, dict[_Key, _Row](), dict[tuple[str, JobId], _Row]()
    if len(replies) > 1:
        stdout, used = used_apart(replies[1].stdout)
        books = _answer("sacct", replace(replies[1], stdout=stdout), 8, _accounting_row, widths, filtered=filtered)
        asked = {array.token: array.resources for array in arrays}
        booked, unstarted = _by_task(books.rows)
        booked = {key: _with_memory(row, used, key, asked) for key, row in booked.items()}
        # What was lost of it may have been about their memory.
        booked = {key: row for key, row in booked.items() if books.is_whole_about(key[0]) or not _is_sigkill(row)}

    live, rest = _by_task(queue.rows)
    chosen: dict[_Key, _Row] = {}
    awaited: set[str] = set()
    known = live.keys() | booked.keys()
    for key in known:
        token = key[0]
        row = _choose(live.get(key), booked.get(key), queue_whole=queue.is_whole_about(token))
        if row is None:
            continue
        if books is not None and row is live.get(key):
            answered = books.is_whole_about(token)
            awaits_cause = _is_awaited(row, booked.get(key), answered=answered)
            if awaits_cause or (answered and _is_uncharged(row, booked.get(key))):
                awaited.add(token)
            if awaits_cause:
                continue
        chosen[key] = row
    if books is not None:
        for key, row in _never_started({**rest, **unstarted}, widths):
            # Whatever ran has a row, since both answers are whole.
            if key not in known and queue.is_whole_about(key[0]) and books.is_whole_about(key[0]):
                chosen[key] = row

    order = {token: place for place, token in enumerate(widths)}
    whole = queue.whole and (books is None or books.whole)
    asked_there = _asked(arrays)
    here = {array.token for array in arrays if cluster_of(array) in asked_there}
    doubtful = queue.doubtful | (books.doubtful if books else frozenset())
    return Observations(
        rows=tuple(
            _observation(key, chosen[key]) for key in sorted(chosen, key=lambda k: (order[k[0]], int(k[1]), k[2]))
        ),
        complete=frozenset(here - awaited - doubtful) if whole else frozenset(),
        problems=tuple(dict.fromkeys((*queue.problems, *(books.problems if books else ())))),
    )


def _asked(arrays: Sequence[JobArray]) -> tuple[str | None, ...]:
    """Return the Slurm clusters that one question can be about: the login node's own, or those that have a name.

    Arrays are in both only after clusters.toml was changed; of the others nothing is known then.
    """
    named = tuple(dict.fromkeys(cluster_of(array) for array in arrays))
    return (None,) if None in named else named


def _is_awaited(row: _Row, booked: _Row | None, *, answered: bool) -> bool:
    """Say whether an end that the queue shows is unknown until accounting has it.

    squeue has no exit status, and calls every signal JobLaunchFailure, that of Slurm's own memory poll too; sacct has
    all of it within seconds (22.05), or when it answers again. Who cancelled it only sacct says, which need not have a
    row for what never started.
    """
    match row.cause:
        case Cause.FAILED:
            return answered or row.raw == "FAILED JobLaunchFailure"
        case Cause.CANCELLED:
            return answered and (row.host is not None or booked is not None)
        case _:
            return False


def _is_uncharged(row: _Row, booked: _Row | None) -> bool:
    """Say whether an end that the queue shows is true, and what it cost is still to come.

    A slow slurmdbd hears of an end seconds after the queue (22.05). Nobody waits longer for it than the queue shows it.
    """
    began = row.phase is Phase.ENDED and row.host is not None
    return began and (booked is None or booked.phase is not Phase.ENDED)


def _choose(live: _Row | None, booked: _Row | None, *, queue_whole: bool) -> _Row | None:
    if live is not None:
        if live.phase is Phase.ENDED and booked is not None and booked.phase is Phase.ENDED:
            return booked
        return live
    if booked is not None and booked.cause in _PERHAPS_REQUEUED and not queue_whole:
        return None
    return booked


def _never_started(rest: Mapping[tuple[str, JobId], _Row], widths: Mapping[str, int]) -> Iterator[tuple[_Key, _Row]]:
    """Yield a row for every array task that may have been cancelled before it started.

    squeue (22.05) shows them as one row with the array's bare id. So does accounting, which then knows who cancelled
    them, or it has no row for them: once some of the array had run, or while the array was held.
    """
    for (token, job_id), row in rest.items():
        for index in range(widths[token]):
            yield (token, job_id, index), row


def _by_task(rows: Sequence[_Row]) -> tuple[dict[_Key, _Row], dict[tuple[str, JobId], _Row]]:
    """Return rows by array task, and the rows of whole cancelled arrays, which stand for what has no other row."""
    tasks: dict[_Key, _Row] = {}
    rest: dict[tuple[str, JobId], _Row] = {}
    for row in rows:
        if row.indices is None:
            rest[row.token, row.job_id] = row
            continue
        for index in row.indices:
            key = (row.token, row.job_id, index)
            if row.own or key not in tasks:
                tasks[key] = row
    return tasks, rest


def _with_memory(row: _Row, used: Mapping[tuple[JobId, int], Used], key: _Key, asked: Mapping[str, Resources]) -> _Row:
    """Return a row that ended by SIGKILL as out of memory if it had used more than it asked for."""
    token, job_id, index = key
    about = used.get((job_id, index))
    if about is None or not _is_sigkill(row) or not about.largest_kib:
        return row
    limit = limit_kib(about.asked, asked[token])
    if not limit or about.largest_kib <= limit:
        return replace(row, max_rss_kib=about.largest_kib)
    raw = f"{row.raw}, MaxRSS {about.largest_kib}K, ReqMem {about.asked}"
    return replace(row, cause=Cause.MEMORY, raw=raw, max_rss_kib=about.largest_kib)


def _is_sigkill(row: _Row) -> bool:
    return row.cause is Cause.FAILED and row.signal == signal.SIGKILL


def _observation(key: _Key, row: _Row) -> Observation:
    token, job_id, index = key
    return Observation(
        token=token,
        job_id=job_id,
        index=index,
        phase=row.phase,
        cause=row.cause,
        raw=row.raw,
        by=row.by,
        stuck=row.stuck,
        # Accounting has one word, the queue has a reason behind it.
        suspended=row.raw.partition(" ")[0] in SUSPENDED,
        exit_code=row.exit_code,
        signal=row.signal,
        host=row.host,
        started_at=row.started_at,
        ended_at=row.ended_at,
        core_seconds=row.core_seconds,
        max_rss_kib=row.max_rss_kib,
    )


# ---- one answer


def _answer(
    program: str,
    reply: Reply,
    columns: int,
    read: Callable[[Sequence[str], int], tuple[_Row, str | None]],
    widths: Mapping[str, int],
    *,
    filtered: bool,
) -> _Answer:
    """Read every line of one program that is ours and means something; ``read`` raises ValueError for others."""
    said = decoded(reply.stderr)
    if reply.exit_code != 0:
        how = "did not end" if reply.exit_code is None else f"ended with {reply.exit_code}"
        return _Answer((), False, (f"{program} {how}: {first_words(said)}.",))
    rows: list[_Row] = []
    problems: list[str] = []
    whole = True
    doubtful: set[str] = set()
    if "error:" in said and not reply.stdout.strip():
        # squeue (22.05) ends with 0 for an unknown user; beside rows it is some site's noise.
        whole = False
        problems.append(f"{program} ended with 0 and complained: {first_words(said)}.")
    lines, cut = _lines(reply.stdout)
    if cut:
        whole = False
        problems.append(f"{program}'s answer was cut in the middle of a line.")
    for line in lines:
        cells = line.split("|", columns - 1)
        if len(cells) != columns or "\N{REPLACEMENT CHARACTER}" in line:
            whole = False
            problems.append(f"{program} printed a line that is none of its rows.")
            continue
        width = widths.get(cells[-1])
        if width is None:
            # Without a filter by name these are the user's other jobs. With one, this line was damaged.
            if filtered:
                whole = False
                problems.append(f"{program} printed a row with another name than asked for.")
            continue
        try:
            row, problem = read(cells, width)
        except ValueError:
            # It has all its columns and the name that it is about: what it says of others stays true.
            doubtful.add(cells[-1])
            problems.append(f"{program} printed a row about {cells[-1]} that can't be read.")
            continue
        rows.append(row)
        if problem:
            problems.append(problem)
    return _Answer(tuple(rows), whole, tuple(problems), frozenset(doubtful))


def _lines(stdout: bytes) -> tuple[Iterator[str], bool]:
    """Return the lines that have an end and hold something, and whether a line without an end follows them."""
    *lines, last = decoded(stdout).split("\n")
    return (kept for line in lines if (kept := line.rstrip("\r")).strip()), bool(last)


def _queue_row(cells: Sequence[str], width: int) -> tuple[_Row, str | None]:
    job, word, reason, start, end, nodes, token = cells
    job_id, indices, own = _job(job, width)
    phase, cause, problem = state_of(word, job)
    if indices is None and cause is not Cause.CANCELLED:
        raise ValueError(f"{job}: no index")
    ended = phase is Phase.ENDED
    stuck, by = stuck_of(word, reason) if phase is Phase.PENDING else (None, None)
    row = _Row(
        token=token,
        job_id=job_id,
        indices=indices,
        own=own,
        phase=phase,
        cause=cause,
        by=by,
        stuck=stuck,
        raw=word if reason in _NO_REASON else f"{word} {reason}",
        # Of a pending array task these are the scheduler's guesses.
        started_at=None if phase is Phase.PENDING or indices is None else instant(start),
        ended_at=instant(end) if ended else None,
        host=_host(nodes),
    )
    return row, problem


def _accounting_row(cells: Sequence[str], width: int) -> tuple[_Row, str | None]:
    job, state, code, start, end, core_seconds, nodes, token = cells
    job_id, indices, own = _job(job, width)
    # "CANCELLED by 1001"
    phase, cause, problem = state_of(state.partition(" ")[0], job)
    if indices is None and cause is not Cause.CANCELLED:
        raise ValueError(f"{job}: no index")
    exit_code, number = _exit(code)
    ended = phase is Phase.ENDED
    row = _Row(
        token=token,
        job_id=job_id,
        indices=indices,
        own=own,
        phase=phase,
        cause=cause,
        by=canceller(state),
        raw=f"{state} {code}" if exit_code or number else state,
        # Of a cancelled or lost array task Slurm first says 0:0, and perhaps something else later (22.05).
        exit_code=exit_code if cause in (Cause.DONE, Cause.FAILED) and not number else None,
        # 0:125 is Slurm's own mark for memory; no signal has that number.
        signal=number if ended and number and number <= _LAST_SIGNAL else None,
        started_at=None if phase is Phase.PENDING else instant(start),
        ended_at=instant(end) if ended else None,
        core_seconds=float(_number(core_seconds)) if core_seconds else None,
        host=_host(nodes),
    )
    return row, problem


# ---- cells


def _job(text: str, width: int) -> tuple[JobId, tuple[int, ...] | None, bool]:
    """Read "3477_2", "3477_[2-3,8-9%2]", or "3477" alone; the last value tells the first from the second."""
    found = _JOB.fullmatch(text)
    if found is None:
        raise ValueError(text)
    which = found[2]
    if which is None:
        return JobId(found[1]), None, False
    own = not which.startswith("[")
    indices = (int(which),) if own else tuple(_expanded(which[1:-1].partition("%")[0], width))
    if max(indices) >= width:
        raise ValueError(f"{text}: the array has {width} array tasks")
    return JobId(found[1]), indices, own


def _expanded(text: str, width: int) -> Iterator[int]:
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        low, high = _number(first), _number(last if dash else first)
        if high >= width or low > high:
            raise ValueError(text)
        yield from range(low, high + 1, _number(step) or 1 if step else 1)


def _exit(text: str) -> tuple[int, int]:
    """Read "3:0" (exit status 3) or "0:9" (signal 9)."""
    code, colon, signal = text.partition(":")
    if not colon:
        raise ValueError(text)
    return _number(code), _number(signal)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def _host(nodes: str) -> str | None:
    return None if nodes in _NO_HOST else nodes
