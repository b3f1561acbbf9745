"""The server in worlds where everything fails: no promise is broken, and the worlds are hard enough to tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from hpcflow.core.states import State
from tests.simulation.bugs import BUGS
from tests.simulation.check import broken_promises
from tests.simulation.slurm import SlurmTraits
from tests.simulation.world import Options, Plan, run_world

#: Seconds of CPU for worlds without a bug, and the first of their seeds: longer and elsewhere at night.
CPU_S: Final = float(os.environ.get("SIMULATION_CPU_S", "120"))
#: No more worlds than this either: a faster machine shall not be the first that sees a world.
WORLDS: Final = int(os.environ.get("SIMULATION_WORLDS", "1000"))
FIRST_SEED: Final = int(os.environ.get("SIMULATION_FIRST_SEED", "1"))
#: A planted bug is found within so many worlds.
_SEEDS_OF_A_BUG: Final = 400


@pytest.mark.slow
@pytest.mark.timeout(900 + 10 * CPU_S)
def test_no_promise_is_broken_in_the_worlds_that_the_time_allows(capsys: pytest.CaptureFixture[str]) -> None:
    begun, end = time.process_time(), time.monotonic() + 2 * CPU_S  # where others compute as well
    seed, hours, kills = FIRST_SEED, 0.0, 0
    broken: list[str] = []
    while seed == FIRST_SEED or (
        time.process_time() - begun < CPU_S and time.monotonic() < end and seed < FIRST_SEED + WORLDS
    ):
        world = run_world(seed)
        broken += [f"python -m tests.simulation --seed {seed}: {sentence}" for sentence in broken_promises(world)]
        hours += world.loop.time() / 3600
        kills += sum(1 for _ in world.history.of("kill"))
        seed += 1
    with capsys.disabled():
        print(f" [{seed - FIRST_SEED} worlds, {hours:.0f} virtual hours, {kills} kills of the server]", end="")
    assert not broken, "\n".join(broken[:20])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_found(bug: str) -> None:
    with BUGS[bug]() as options:
        found = next(
            (seed for seed in range(1, _SEEDS_OF_A_BUG + 1) if broken_promises(run_world(seed, options))), None
        )
    assert found is not None
    assert not broken_promises(run_world(found)), "that world is broken without the bug as well"


@pytest.mark.slow
def test_a_weekend_without_controller_and_accounting_costs_nothing_but_time() -> None:
    weekend = 60 * 3600.0
    calm = replace(
        Plan.of(1),
        chaos_s=weekend,
        fault_rate=0.0,
        kills=0,
        trouble_s=1e12,
        cancel_at=None,
        cancel_some_at=None,
        median_s=90.0,
        bad=0.0,
    )
    world = run_world(1, Options(plan=calm, outage_s=weekend))

    assert broken_promises(world) == []
    # A warm worker may leave what it was given and had not begun: that is another attempt, and no other run.
    assert {entry.task: entry.state for entry in world.history.of("task")} == dict.fromkeys(
        range(len(calm.deps)), State.COMPLETED
    )
    assert Counter(entry.task for entry in world.history.of("run begins")) == dict.fromkeys(range(len(calm.deps)), 1)
    assert sum(1 for _ in world.history.of("command")) <= 2 * weekend / 60 + 100


@pytest.mark.slow
def test_ten_thousand_tasks_of_a_second_keep_three_whole_nodes_busy() -> None:
    tasks, cores = 10_000, 16
    nodes = replace(
        Plan.of(1),
        deps=((),) * tasks,
        walltime_s=600,
        median_s=1.0,
        spread=0.0,
        bad=0.0,
        chaos_s=0.0,
        fault_rate=0.0,
        kills=0,
        trouble_s=1e12,
        cancel_at=None,
        cancel_some_at=None,
        pause_at=None,
        on_network=False,
        max_width=None,
        accepting=frozenset(),
        traits=SlurmTraits(nodes=3, cpus=cores, whole_nodes=True),
    )
    world = run_world(1, Options(plan=nodes))

    assert broken_promises(world) == []
    given = [element for job in world.slurm.jobs for element in job.elements if element.begun]
    assert len({element.node for element in given}) == 3
    charged = sum((element.end or 0.0) - (element.start or 0.0) for element in given) * cores
    # Every task ran once, for a second on one core; what remains of the nodes is starts, ends, and what stood idle.
    assert sum(1 for _ in world.history.of("run begins")) == tasks
    assert 0.95 <= tasks / charged <= 1.0
    assert sum(entry.verb == "sbatch" for entry in world.history.of("command")) <= 3


def test_a_seed_is_the_same_world_in_another_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "3"],
            env={**os.environ, "PYTHONHASHSEED": number},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
            timeout=240,
        ).stdout
        for number in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize("seed", [1, 8, 21])
def test_a_seed_gives_the_same_world_again(seed: int) -> None:
    first, second = run_world(seed), run_world(seed)

    assert str(first.history) == str(second.history)
    assert len(first.history.entries) > 20
