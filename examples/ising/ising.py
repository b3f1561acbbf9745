"""The 2D Ising model near its critical point: lattices of several sizes, and where their Binder cumulants meet.

python examples/ising/ising.py --executor slurm --plot ising.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hpcflow as hf

SIZES = (8, 12, 16, 24)
TEMPERATURES = (1.7, 1.9, 2.05, 2.15, 2.22, 2.3, 2.38, 2.5, 2.7, 3.0)
#: Around where the cumulants meet at first sight.
WINDOW = (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)
ONSAGER = 2 / math.log(1 + math.sqrt(2))

#: Independent lattices of one task: their scatter is the error.
REPLICAS = 32
MEASURED_EVERY = 4


@dataclass(frozen=True)
class Point:
    """One lattice size at one temperature, in units of the coupling; energy and magnetisation per spin."""

    size: int
    temperature: float
    sweeps: int
    energy: float
    #: Mean of the absolute value.
    magnetisation: float
    susceptibility: float
    #: 1 - <m^4> / (3 <m^2>^2): 2/3 in order, 0 in disorder, and of one value for all sizes at the critical point.
    binder: float
    binder_error: float


@dataclass(frozen=True)
class Crossing:
    """Where the cumulants of the smallest and the largest lattice have one value."""

    temperature: float
    error: float


@dataclass(frozen=True)
class Study:
    points: tuple[Point, ...]
    critical: Crossing


# ---- electrons


@hf.electron(cpus=1, memory="500 MB", walltime="2 min", retries=1)
def simulate(size: int, temperature: float, seed: int, precision: float, most_sweeps: int) -> Point:
    """Flip spins by Metropolis' rule until the Binder cumulant is known to ``precision``, or for ``most_sweeps``.

    How long that takes depends on size and temperature: large lattices near the critical point change slowest.
    """
    dice = np.random.default_rng([seed, size, round(1e6 * temperature)])
    spins = np.ones((REPLICAS, size, size), dtype=np.int8)
    # By spin times the sum of its neighbours, -4 to 4.
    chances = np.exp(-2 * np.arange(-4, 5) / temperature).astype(np.float32)
    block = size * size  # sweeps: about what a critical lattice needs to forget
    for _ in range(block):
        sweep(spins, chances, dice)
    moments = np.zeros((4, REPLICAS))  # |m|, m^2, m^4, energy
    measured = sweeps = 0
    while True:
        for step in range(block):
            sweep(spins, chances, dice)
            if step % MEASURED_EVERY == 0:
                magnetisation = np.abs(spins.mean(axis=(1, 2)))
                moments += [magnetisation, magnetisation**2, magnetisation**4, energies(spins)]
                measured += 1
        sweeps += block
        first, second, fourth, energy = moments / measured
        binder, error = cumulant(second, fourth)
        if error <= precision or sweeps >= most_sweeps:
            break
    variance = second.mean() - first.mean() ** 2
    return Point(
        size=size,
        temperature=temperature,
        sweeps=sweeps,
        energy=float(energy.mean()),
        magnetisation=float(first.mean()),
        susceptibility=float(size * size * variance / temperature),
        binder=binder,
        binder_error=error,
    )


@hf.electron(cpus=1, memory="500 MB", walltime="2 min")
def first_look(points: Sequence[Point]) -> float:
    """The temperature at which the cumulants of the smallest and the largest lattice cross."""
    sizes = sorted({point.size for point in points})
    small, large = (sorted_by_temperature(points, size) for size in (sizes[0], sizes[-1]))
    temperatures = np.array([point.temperature for point in small])
    # In order the larger lattice has the larger cumulant, and the difference is lost in noise: look from above.
    apart = np.array([b.binder - a.binder for a, b in zip(small, large, strict=True)])
    below = max((place for place in range(len(apart) - 1) if apart[place] > 0 >= apart[place + 1]), default=None)
    if below is None:
        raise ValueError(f"The cumulants do not cross between {temperatures[0]} and {temperatures[-1]}.")
    share = apart[below] / (apart[below] - apart[below + 1])
    return float(temperatures[below] + share * (temperatures[below + 1] - temperatures[below]))


@hf.electron(cpus=1, memory="500 MB", walltime="2 min")
def conclude(points: Sequence[Point], near: Sequence[Point]) -> Study:
    """Parabolas through the cumulants of two sizes near the critical point, and where they meet."""
    small, large = (sorted_by_temperature(near, size) for size in sorted({point.size for point in near}))
    dice = np.random.default_rng(0)
    draws = [meeting(small, large, dice) for _ in range(400)]
    critical = Crossing(meeting(small, large, None), float(np.std(draws)))
    return Study(tuple(sorted([*points, *near], key=lambda point: (point.size, point.temperature))), critical)


def ising(
    sizes: Sequence[int], temperatures: Sequence[float], window: Sequence[float], precision: float, most_sweeps: int
) -> Study:
    """The lattice of electrons: temperatures far and wide, a first look, a closer one, and the conclusion."""
    points = [simulate(size, at, 1, 4 * precision, most_sweeps) for size in sizes for at in temperatures]
    about = first_look(points)
    # `about` is no number yet: the sum is worked out by the worker that needs it.
    near = [simulate(size, about + off, 2, precision, most_sweeps) for size in (sizes[0], sizes[-1]) for off in window]
    return conclude(points, near)


# ---- what they share


def sweep(spins: NDArray[np.int8], chances: NDArray[np.float32], dice: np.random.Generator) -> None:
    """Offer each spin of each lattice a flip: first all black fields of the chess board, then all white ones."""
    size = spins.shape[1]
    black = np.add.outer(np.arange(size), np.arange(size)) % 2 == 0
    for colour in (black, ~black):
        neighbours = (
            np.roll(spins, 1, axis=1)
            + np.roll(spins, -1, axis=1)
            + np.roll(spins, 1, axis=2)
            + np.roll(spins, -1, axis=2)
        )
        flips = dice.random(spins.shape, dtype=np.float32) < chances[spins * neighbours + 4]
        np.negative(spins, out=spins, where=flips & colour)


def energies(spins: NDArray[np.int8]) -> NDArray[np.float64]:
    """The energy per spin of each lattice: -1 for each pair of like neighbours, 1 for each other pair."""
    bonds = spins * (np.roll(spins, 1, axis=1) + np.roll(spins, 1, axis=2))
    return np.asarray(-bonds.mean(axis=(1, 2)), dtype=np.float64)


def cumulant(second: NDArray[np.float64], fourth: NDArray[np.float64]) -> tuple[float, float]:
    """Binder's cumulant from the moments of independent lattices, and its error by leaving out each in turn."""
    count = len(second)
    whole = 1 - fourth.mean() / (3 * second.mean() ** 2)
    without = 1 - (fourth.sum() - fourth) / (count - 1) / (3 * ((second.sum() - second) / (count - 1)) ** 2)
    return float(whole), float(math.sqrt((count - 1) * ((without - without.mean()) ** 2).mean()))


def meeting(small: Sequence[Point], large: Sequence[Point], dice: np.random.Generator | None) -> float:
    """The temperature at which the cumulants of two sizes have one value; with ``dice``, as it might have come out."""
    centre = sum(point.temperature for point in small) / len(small)
    apart = np.zeros(3)
    for points, sign in ((small, 1), (large, -1)):
        errors = np.array([point.binder_error for point in points])
        values = np.array([point.binder for point in points])
        if dice is not None:
            values = dice.normal(values, errors)
        apart += sign * np.polyfit([point.temperature - centre for point in points], values, 2, w=1 / errors)
    return centre + float(min(np.roots(apart), key=abs).real)


def sorted_by_temperature(points: Sequence[Point], size: int) -> list[Point]:
    return sorted((point for point in points if point.size == size), key=lambda point: point.temperature)


def spontaneous(temperature: float) -> float:
    """The magnetisation of the infinite lattice, by Onsager and Yang."""
    return (1 - math.sinh(2 / temperature) ** -4) ** 0.125 if temperature < ONSAGER else 0.0


# ---- what is shown


def as_text(study: Study) -> str:
    """The table for a terminal."""
    lines = ["size     T    sweeps   energy   |m|    susceptibility   Binder cumulant"]
    lines += [
        f"{point.size:4d} {point.temperature:7.4f} {point.sweeps:7d} {point.energy:8.3f} {point.magnetisation:6.3f} "
        f"{point.susceptibility:12.2f}        {point.binder:7.4f} ± {point.binder_error:.4f}"
        for point in study.points
    ]
    return "\n".join(lines)


def answer(study: Study) -> str:
    critical = study.critical
    return f"T_c = {critical.temperature:.3f} ± {critical.error:.3f} from Binder cumulants; Onsager: {ONSAGER:.3f}"


def draw(study: Study, path: Path) -> None:
    """Write a figure: magnetisation, susceptibility and Binder cumulant over the temperature, a curve for each size."""
    # Electrons never draw, so compute nodes need no matplotlib.
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        order, response, binder = figure.subplots(1, 3)
        by_size = [(size, list(points)) for size, points in groupby(study.points, key=lambda point: point.size)]
        for number, (size, points) in enumerate(by_size):
            colour = colormaps["viridis"](0.85 - 0.85 * number / max(1, len(by_size) - 1))
            style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 3, "lw": 1, "label": f"L = {size}"}
            temperatures = [point.temperature for point in points]
            order.plot(temperatures, [point.magnetisation for point in points], **style)
            response.plot(temperatures, [point.susceptibility for point in points], **style)
            errors = [point.binder_error for point in points]
            binder.errorbar(temperatures, [point.binder for point in points], errors, **style)
        exact = np.linspace(min(point.temperature for point in study.points), ONSAGER, 400)
        order.plot(exact, [spontaneous(float(at)) for at in exact], color="black", lw=1, ls=":", label="infinite")
        for panel, title in ((order, "magnetisation"), (response, "susceptibility"), (binder, "Binder cumulant")):
            panel.axvline(ONSAGER, color="#d1603d", lw=1, alpha=0.6, zorder=0)
            panel.set_title(title, loc="left")
        binder.set_xlim(study.critical.temperature - 0.2, study.critical.temperature + 0.2)
        binder.set_ylim(0.3, 0.68)
        order.legend(frameon=False)
        figure.supxlabel("temperature (coupling / Boltzmann's constant)")
        figure.suptitle(f"2D Ising model: {answer(study)}", fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--executor", help="a cluster's name, such as slurm or local; default: the server's choice")
    options.add_argument("--plot", type=Path, help="write the curves to this file (png, pdf or svg)")
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="edges of the lattices, even numbers")
    options.add_argument("--precision", type=float, default=0.002, help="of the cumulants near the critical point")
    options.add_argument("--sweeps", type=int, default=20_000, help="of one lattice at one temperature, at most")
    chosen = options.parse_args()
    if len(chosen.sizes) < 2 or any(size < 2 or size % 2 for size in chosen.sizes):
        options.error("--sizes needs two even numbers at least: the fields of a chess board must close at the edges")

    workflow = hf.lattice(executor=chosen.executor)(ising)
    sizes = sorted(set(chosen.sizes))
    result = hf.dispatch_sync(workflow)(sizes, TEMPERATURES, WINDOW, chosen.precision, chosen.sweeps)
    if result.status != "COMPLETED":
        raise SystemExit(result.error)

    study: Study = result.result
    print(as_text(study))
    if chosen.plot is not None:
        draw(study, chosen.plot)
        print(f"Plot: {chosen.plot}")
    print(answer(study))


if __name__ == "__main__":
    main()
