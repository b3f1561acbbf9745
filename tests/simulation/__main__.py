"""`python -m tests.simulation --seed 7` replays one world; `--seeds 1-1000` runs many and sums them up."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

from tests.simulation.bugs import BUGS
from tests.simulation.check import broken_promises
from tests.simulation.world import Options, run_world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, metavar="N", help="run one world and print all that happens in it")
    which.add_argument("--seeds", metavar="A-B", help="run the worlds A to B and print what is broken in them")
    parser.add_argument("--bug", choices=sorted(BUGS), help="run them with this bug planted")
    asked = parser.parse_args()
    with BUGS[asked.bug]() if asked.bug else nullcontext(Options()) as options:
        if asked.seed is not None:
            return _one(asked.seed, options)
        first, _, last = asked.seeds.partition("-")
        return _many(range(int(first), int(last or first) + 1), options)


def _one(seed: int, options: Options) -> int:
    world = run_world(seed, options)
    print(world.history)
    broken = broken_promises(world)
    for sentence in broken:
        print(f"BROKEN  {sentence}")
    return 1 if broken else 0


def _many(seeds: range, options: Options) -> int:
    begun = time.process_time()
    hours, kills, bad = 0.0, 0, 0
    for seed in seeds:
        world = run_world(seed, options)
        hours += world.loop.time() / 3600
        kills += sum(1 for _ in world.history.of("kill"))
        if broken := broken_promises(world):
            bad += 1
            for sentence in broken[:3]:
                print(f"seed {seed}: {sentence}", flush=True)
    spent = time.process_time() - begun
    print(
        f"{len(seeds)} worlds, {hours:.0f} virtual hours, {kills} kills of the server in {spent:.0f} s of CPU "
        f"({1000 * spent / len(seeds):.0f} ms a world); {bad} with a broken promise"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
