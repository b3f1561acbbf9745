"""Gradient descent from several starts: methods as electrons, ordered side effects, a sublattice for each start."""

# prints: COMPLETED [0.9, 1.8, 2.7] True COMPLETED descend True ['0', '1', '2', '3']

import sys
from pathlib import Path

import numpy as np

import hpcflow as ct


class Descent:
    def __init__(self, rate):
        self.rate = rate

    @ct.electron
    def step(self, theta, target):
        return theta - self.rate * 2 * (theta - target)


@ct.electron
def start(shape, *, seed):
    return np.zeros(shape) + 0 * seed


@ct.electron
def cost(theta, target):
    return float(np.sum((theta - target) ** 2))


@ct.electron
def note(path, step):
    with open(path, "a") as file:
        file.write(f"{step}\n")


@ct.electron
@ct.lattice
def descend(seed, target, steps, path):
    descent, theta, before = Descent(0.22), start((3,), seed=seed), None
    for number in range(steps):
        theta = descent.step(theta, target)
        noted = note(path, number)
        if before is not None:
            ct.wait(child=noted, parents=[before])
        before = noted
    return {"theta": theta, "last": cost(theta, target)}


@ct.electron
def best(results):
    return min(results, key=lambda result: result["last"])


@ct.lattice
def workflow(starts, target, folder):
    runs = [descend(seed, target, 4, f"{folder}/{seed}.log") for seed in range(starts)]
    winner = best(runs)
    return {"theta": winner["theta"], "all": [run["last"] for run in runs]}


if __name__ == "__main__":
    result = ct.dispatch_sync(workflow)(2, np.array([1.0, 2.0, 3.0]), sys.argv[1])
    theta = [float(value) for value in np.trunc(result.result["theta"] * 10) / 10]
    child = result.get_node_result(0)["sublattice_result"]
    steps = Path(sys.argv[1], "0.log").read_text().split()
    same = child.root_dispatch_id == result.dispatch_id
    print(result.status, theta, len(result.result["all"]) == 2, child.status, child.name, same, steps)
