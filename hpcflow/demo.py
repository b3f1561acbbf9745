"""What `hpcflow demo` runs: the lattice constant of solid argon, from 41 tasks on this machine."""

from __future__ import annotations

from collections.abc import Sequence

import hpcflow as hf

#: Lennard-Jones parameters of argon: eV and angstrom (Ashcroft and Mermin, Solid State Physics, table 20.1).
EPSILON, SIGMA = 0.0104, 3.40


@hf.electron(executor="local")
def energy_per_atom(constant: float) -> float:
    """Return the energy of one atom in an fcc crystal, in eV, summed over its neighbours up to 7 cells away."""
    reach = range(-14, 15)
    total = 0.0
    for i in reach:
        for j in reach:
            for k in reach:
                # In halves of the cell's edge, fcc has an atom wherever the sum is even.
                if (i + j + k) % 2 == 0 and (i or j or k):
                    ratio = (2 * SIGMA / constant) ** 2 / (i * i + j * j + k * k)
                    total += 2 * EPSILON * (ratio**6 - ratio**3)
    return total


@hf.electron(executor="local")
def minimum(constants: Sequence[float], energies: Sequence[float]) -> tuple[float, float]:
    """Return where the parabola through the lowest point and its neighbours has its minimum, and how low it is."""
    low = min(range(1, len(energies) - 1), key=lambda index: energies[index])
    step = constants[low] - constants[low - 1]
    left, middle, right = energies[low - 1 : low + 2]
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return constants[low] + shift * step, middle - (left - right) * shift / 4


@hf.lattice
def solid_argon(constants: Sequence[float]) -> tuple[float, float]:
    return minimum(constants, [energy_per_atom(constant) for constant in constants])


completed = False

if __name__ == "__main__":
    done = hf.dispatch_sync(solid_argon)([5.0 + 0.0125 * step for step in range(40)])
    print(repr(done).strip("<>"))
    if done.result is not None:
        constant, energy = done.result
        completed = True
        print(f"Solid argon: lattice constant {constant:.3f} Å, {1000 * energy:.1f} meV per atom: completed.")
