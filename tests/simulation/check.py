"""Looks through the history of a world for broken promises (docs/explanation/reliability.md)."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from hpcflow.core.blame import LOSSES
from hpcflow.core.states import FINAL, State
from tests.simulation.history import Entry, History
from tests.simulation.world import Plan, World

__all__ = ["broken_promises"]

#: How long after a cancel, and the last trouble, every worker has heard of it.
_HEARD_S: Final = 120.0
#: How long after others have ceased to queue the server knows that, and workers have heard of it.
_SEEN_S: Final = 180.0
#: What an array task's end makes of the task that ran: nobody's fault.
_FREE = frozenset({"NODE_FAIL", "PREEMPTED", "CANCELLED", "COMPLETED"})


def broken_promises(world: World) -> list[str]:
    """Return a sentence for each promise that the history breaks; none is the aim."""
    history, plan = world.history, world.plan
    return [
        *_at_rest(history),
        *_published_once(history),
        *_nothing_lost(history),
        *_finals_stay(history),
        *_fair(history, plan),
        *_never_over_while_alive(history),
        *_accepted_once(history, plan),
        *_cancel_is_kept(history),
        *_cancelled_tasks_do_not_run(history),
        *_somebody_stays(history, plan),
        *_few_commands(history),
        *_no_faults(history),
    ]


def _at_rest(history: History) -> Iterator[str]:
    """Every dispatch ends, and leaves nothing in the queue (P6, P12)."""
    for entry in history.of("no rest"):
        states = dict(Counter(final.state for final in _last(history).values()))
        yield f"P-end: no rest after {entry.at:.0f} s; {entry.left} array tasks left, tasks {states}"


def _published_once(history: History) -> Iterator[str]:
    """One end for each attempt, of the attempt that the task is in, and made by a run of that attempt (P1, P9)."""
    attempts: Counter[int] = Counter()
    seen: set[tuple[int, int]] = set()
    runs = {entry.run: entry for entry in history.of("run ends")}
    for entry in history.of("end", "task"):
        if entry.what == "task":
            attempts[entry.task] = entry.attempt
            continue
        key = (entry.task, entry.attempt)
        if entry.st == "cancelled":
            continue  # how far it had come: told anew by each server that reads its journal
        if key in seen:
            yield f"P1: task {key[0]}, attempt {key[1]}: a second end, by {entry.worker} at {entry.at:.0f} s"
        seen.add(key)
        if entry.attempt < max(attempts[entry.task], 1):
            yield f"P9: task {key[0]} is in attempt {attempts[entry.task]}; an end of attempt {key[1]} was published"
        if entry.st == "ok":
            run = runs.get(int(base64.b64decode(entry.value)))
            if run is None or (run.task, run.attempt, run.st) != (*key, "ok"):
                yield f"P1: task {key[0]}, attempt {key[1]}: the published result is not one of its own"


def _last(history: History) -> dict[int, Entry]:
    return {entry.task: entry for entry in history.of("task")}


def _nothing_lost(history: History) -> Iterator[str]:
    """What a worker that lives has finished and written is the result; the task does not run again (P3)."""
    last = _last(history)
    attempts: dict[int, int] = {}
    finished: dict[int, Entry] = {}
    for entry in history.of("task", "run ends"):
        if entry.what == "task":
            attempts[entry.task] = entry.attempt
        elif entry.st == "ok" and not entry.fields.get("zombie") and attempts.get(entry.task, 1) == entry.attempt:
            finished.setdefault(entry.task, entry)
    for task, run in finished.items():
        final = last.get(task)
        if final is None or final.state == State.CANCELLED:
            continue
        if final.state != State.COMPLETED or final.attempt != run.attempt:
            yield (
                f"P3: task {task} returned in attempt {run.attempt} on {run.worker} at {run.at:.0f} s, "
                f"and is {final.state} in attempt {final.attempt}"
            )


def _finals_stay(history: History) -> Iterator[str]:
    """A final state is the last one."""
    before: dict[int, State] = {}
    for entry in history.of("task"):
        state = State(entry.state)
        was = before.get(entry.task, state)
        if was in FINAL and was is not state:
            yield f"P3: task {entry.task} was {was} and became {state} at {entry.at:.0f} s"
        before[entry.task] = state


def _fair(history: History, plan: Plan) -> Iterator[str]:
    """No task fails that never did anything to deserve it, none is cancelled without somebody's wish (P4, P10)."""
    guilty: set[int] = set()
    losses: Counter[int] = Counter()
    running: dict[str, int] = {}
    for entry in history.of("run begins", "run ends", "over"):
        if entry.what == "run begins":
            running[entry.worker] = entry.task
        elif entry.what == "run ends":
            running.pop(entry.worker, None)
            if entry.st not in {"ok", "interrupted", "cancelled"}:
                guilty.add(entry.task)
        else:
            task = running.get(f"{entry.job}_{entry.index}_{entry.fields['restart'] or 0}")
            if task is None:
                continue
            losses[task] += entry.state == "NODE_FAIL"
            if entry.state not in _FREE:
                guilty.add(task)
    if not plan.traits.accounting:
        # Nobody knows what a worker died of that the queue has forgotten, or that it went on elsewhere.
        guilty |= {*running.values(), *(entry.task for entry in history.of("run ends") if entry.fields.get("zombie"))}
    # So many nodes do not fail under one task by accident.
    guilty |= {task for task, count in losses.items() if count > LOSSES}
    if any(entry.fault == "refused" and entry.door == "sbatch" for entry in history.of("fault")):
        return  # a refusal is an answer
    asked = any(True for _ in history.of("cancel asked", "foreign"))
    for task, final in _last(history).items():
        if final.state == State.FAILED and task not in guilty:
            yield f"P4: task {task} failed and never did anything wrong: {final.error}"
        if final.state == State.CANCELLED and not asked:
            yield f"P4: task {task} is cancelled and nobody asked: {final.error}"
        if final.state == State.SKIPPED and not any(
            _last(history)[up].state in FINAL - {State.COMPLETED} for up in plan.deps[task]
        ):
            yield f"P4: task {task} is skipped, and all before it completed"


def _never_over_while_alive(history: History) -> Iterator[str]:
    """An array is over when nothing of it lives (P4)."""
    for entry in history.of("array"):
        if entry.state in {"ended", "refused"} and entry.alive:
            yield f"P4: array {entry.token} is {entry.state} at {entry.at:.0f} s; {entry.alive} array tasks of it live"


def _accepted_once(history: History, plan: Plan) -> Iterator[str]:
    """One accepted job for each intent, as long as the controller decides within the settle time (P2).

    Without accounting nobody remembers a job that ended MinJobAge ago: there only those count that live together.
    """
    jobs: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in history.of("accepted"):
        jobs[entry.token].append(entry)
    for token, taken in jobs.items():
        if len(taken) > 1 and (plan.traits.accounting or any(entry.fields["twins"] for entry in taken)):
            yield f"P2: array {token} was accepted {len(taken)} times: {', '.join(entry.job for entry in taken)}"


def _cancel_is_kept(history: History) -> Iterator[str]:
    """Once a cancel was confirmed nothing of the dispatch begins to run, but for what was on its way (P6)."""
    confirmed = next(history.of("cancel confirmed"), None)
    if confirmed is None:
        return
    until = max((entry.at for entry in history.of("fault", "server", "controller down")), default=confirmed.at)
    for entry in history.of("starts"):
        if entry.at > max(confirmed.at, until) + 3600:
            yield f"P6: job {entry.job}_{entry.index} starts at {entry.at:.0f} s, cancelled at {confirmed.at:.0f} s"


def _cancelled_tasks_do_not_run(history: History) -> Iterator[str]:
    """A task that was cancelled does not run while others of its bag go on; where a node was given up nobody asks."""
    confirmed = next(history.of("some cancelled"), None)
    if confirmed is None:
        return
    until = max((entry.at for entry in history.of("fault", "server", "controller down")), default=0.0)
    given_up = {entry.worker for entry in history.of("run ends") if entry.fields.get("zombie")}
    cancelled: dict[int, int] = {}
    for entry in history.of("task", "run begins", "run ends"):
        if entry.what == "task":
            if entry.state == State.CANCELLED:
                cancelled[entry.task] = entry.attempt
        elif entry.worker in given_up or entry.at <= max(confirmed.at, until) + _HEARD_S:
            continue
        elif cancelled.get(entry.task) == entry.attempt:
            how = "begins" if entry.what == "run begins" else f"goes on until it is {entry.st}"
            yield f"P6: task {entry.task} {how} at {entry.at:.0f} s, cancelled at {confirmed.at:.0f} s"


def _somebody_stays(history: History, plan: Plan) -> Iterator[str]:
    """Who is let go leaves others that wait, as far as anybody knows; all are when nothing comes, or others queue (P8).

    Tasks that nobody has touched yet are still to come.
    """
    waiting: defaultdict[str, set[str]] = defaultdict(set)
    touched: set[int] = set()
    queue: dict[str, int] = {}
    queued_at = 0.0
    for entry in history.of("task", "accepted", "starts", "array", "waits", "waits no more", "let go"):
        queued = any(left > 0 for left in queue.values())
        if entry.what == "task":
            touched.add(entry.task)
        elif entry.what == "accepted":
            queue[entry.job] = int(entry.fields["width"])
        elif entry.what == "starts" and entry.job in queue:
            queue[entry.job] -= 1
        elif entry.what == "array" and entry.state == "ended":
            queue.pop(entry.job, None)
        if queued or any(left > 0 for left in queue.values()):
            queued_at = entry.at
        if "bag" not in entry.fields:
            continue
        mine = waiting[entry.bag]
        mine.discard(entry.worker)
        if entry.what == "waits":
            mine.add(entry.worker)
        elif entry.what == "let go" and not entry.fields["all"]:
            if not mine:
                yield f"P8: worker {entry.worker} was let go at {entry.at:.0f} s and was the last that waited"
        elif entry.what == "let go" and entry.at > queued_at + _SEEN_S and len(touched) < len(plan.deps):
            yield f"P8: worker {entry.worker} was let go at {entry.at:.0f} s, and tasks were still to come"


def _few_commands(history: History) -> Iterator[str]:
    """Questions grow with time, not with tasks; submissions with arrays (P8)."""
    verbs = Counter(entry.verb for entry in history.of("command"))
    servers = sum(1 for _ in history.of("server"))
    most = 2 * (history.entries[-1].at / 30 + 2 * servers)
    if verbs["squeue"] + verbs["sacct"] > most:
        yield f"P8: {verbs['squeue']} squeue and {verbs['sacct']} sacct in {history.entries[-1].at:.0f} s"
    tokens = {entry.token for entry in history.of("array")}
    faults = sum(1 for entry in history.of("fault") if entry.door == "sbatch")
    down = sum(1 for _ in history.of("controller down"))
    if verbs["sbatch"] > len(tokens) + faults + servers + 40 * down:
        yield f"P8: {verbs['sbatch']} sbatch for {len(tokens)} arrays"


def _no_faults(history: History) -> Iterator[str]:
    """Nothing but what was broken on purpose fails."""
    for entry in history.of("fell"):
        yield f"fault: server {entry.generation} fell: {entry.error}"
    usurped = {entry.generation for entry in history.of("usurped")}
    for entry in history.of("fenced"):
        if entry.generation not in usurped:
            yield f"fault: server {entry.generation} lost its lease and nobody had taken it"
    for entry in history.of("log"):
        if entry.error is not None and "a fault in" in entry.said:
            yield f"fault: {entry.said} {entry.error}"
