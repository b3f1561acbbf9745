"""Equations of state of the fcc and bcc metals that ASE's EMT potential knows: relax, strain, fit, reduce.

python examples/eos/eos.py --executor slurm --plot eos.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT, parameters
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import Bohr, GPa

import hpcflow as hf

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
ATOMS_PER_CUBE = {"fcc": 4, "bcc": 2}
# Beyond 2 % a further shell of neighbours crosses EMT's cutoff, and the curves are no longer Birch-Murnaghan's.
STRAINS = tuple(float(strain) for strain in np.linspace(-0.02, 0.02, 25))


@dataclass(frozen=True)
class Curve:
    """One crystal's energies over its volumes, per atom, in eV and cubic angstrom, and what was fitted to them."""

    metal: str
    structure: str
    volumes: tuple[float, ...]
    energies: tuple[float, ...]
    lattice_constant: float
    bulk_modulus_gpa: float
    cohesive_energy: float
    #: How far the fit is from the worst energy.
    residual: float


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def relax(metal: str, structure: str) -> float:
    """The lattice constant at which EMT's stress is zero, in angstrom."""
    atoms_per_cube = ATOMS_PER_CUBE[structure]
    # Start from the volume per atom of the real metal.
    crystal = bulk(metal, structure, a=(atoms_per_cube * bulk(metal).get_volume()) ** (1 / 3))
    crystal.calc = EMT()
    shape = FrechetCellFilter(crystal)
    if not BFGS(shape, logfile=None).run(fmax=1e-5, steps=200):  # type: ignore[arg-type]  # takes filters
        raise RuntimeError(f"{structure} {metal} did not relax in 200 steps.")
    return float((atoms_per_cube * crystal.get_volume()) ** (1 / 3))


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def strain(metal: str, structure: str, lattice_constant: float, amount: float) -> tuple[float, float]:
    """Volume and energy per atom after stretching every edge by ``amount``."""
    crystal = bulk(metal, structure, a=lattice_constant * (1 + amount))
    crystal.calc = EMT()
    return float(crystal.get_volume()), float(crystal.get_potential_energy())


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def fit(metal: str, structure: str, points: Sequence[tuple[float, float]]) -> Curve:
    """Birch and Murnaghan's equation through the points."""
    volumes, energies = np.array(points).T
    state = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, energy, bulk_modulus = state.fit()
    atom = Atoms(metal, calculator=EMT())
    return Curve(
        metal=metal,
        structure=structure,
        volumes=tuple(volumes.tolist()),
        energies=tuple(energies.tolist()),
        lattice_constant=float((ATOMS_PER_CUBE[structure] * volume) ** (1 / 3)),
        bulk_modulus_gpa=float(bulk_modulus / GPa),
        cohesive_energy=float(atom.get_potential_energy() - energy),
        residual=float(np.abs(energies - state.func(volumes, *state.eos_parameters)).max()),
    )


@hf.electron(cpus=1, memory="1 GB", walltime="1 min", retries=1)
def reduce(curves: Sequence[Curve]) -> dict[str, dict[str, Curve]]:
    """The curves by metal, then by structure, the structure that EMT prefers first."""
    table: dict[str, dict[str, Curve]] = {}
    for curve in sorted(curves, key=lambda curve: -curve.cohesive_energy):
        table.setdefault(curve.metal, {})[curve.structure] = curve
    return {metal: table[metal] for metal in METALS if metal in table}


def equations_of_state(metals: Sequence[str], strains: Sequence[float]) -> dict[str, dict[str, Curve]]:
    """The lattice: for each metal and structure one relaxation, many strains and one fit; then one table."""
    curves: list[Curve] = []
    for metal in metals:
        for structure in ATOMS_PER_CUBE:
            lattice_constant = relax(metal, structure)
            points = [strain(metal, structure, lattice_constant, amount) for amount in strains]
            curves.append(fit(metal, structure, points))
    return reduce(curves)


def as_text(table: dict[str, dict[str, Curve]]) -> str:
    """The table for a terminal; fcc beside the two numbers that EMT was fitted to."""
    lines = [
        "metal        a0    B0     E coh   fit off by   EMT's own parameters",
        "              Å   GPa   eV/atom          meV   a0 = s0 (16π/3)^⅓, E0",
    ]
    for metal, curves in table.items():
        for structure, curve in sorted(curves.items(), reverse=True):
            energy, radius_in_bohr = parameters[metal][:2]
            known = f"   {radius_in_bohr * Bohr * (16 * np.pi / 3) ** (1 / 3):7.3f} {-energy:7.2f}"
            lines.append(
                f"{metal:2} {structure}  {curve.lattice_constant:7.3f} {curve.bulk_modulus_gpa:5.0f} "
                f"{curve.cohesive_energy:9.3f} {1000 * curve.residual:12.2f}{known if structure == 'fcc' else ''}"
            )
    return "\n".join(lines)


def draw(table: dict[str, dict[str, Curve]], path: Path) -> None:
    """Write a figure: a panel of curves for each metal, and the bulk moduli side by side."""
    # Electrons never draw, so compute nodes need no matplotlib.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    styles = {"fcc": ("#0b6e99", "o"), "bcc": ("#d1603d", "s")}
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        *panels, moduli = figure.subplots(2, 4).flat
        for panel, (metal, curves) in zip(panels, table.items(), strict=True):
            lowest = min(curves["fcc"].energies)
            for structure, (colour, marker) in styles.items():
                above = [1000 * (energy - lowest) for energy in curves[structure].energies]
                panel.plot(curves[structure].volumes, above, color=colour, marker=marker, ms=2.6, lw=1, label=structure)
            panel.set_title(metal, loc="left")
            panel.set_ylim(bottom=-3)
            panel.locator_params(nbins=4)
        for structure, (colour, marker) in styles.items():
            values = [curves[structure].bulk_modulus_gpa for curves in table.values()]
            # Open markers: where both structures agree, both can be seen.
            moduli.plot(values, range(len(values)), color=colour, marker=marker, ls="", mfc="none", mew=1.4)
        moduli.set_yticks(range(len(table)), list(table))
        moduli.invert_yaxis()
        moduli.set_xlim(left=0)
        moduli.grid(axis="y", alpha=0.25)
        moduli.tick_params(axis="y", length=0)
        moduli.set_title("bulk modulus (GPa)", loc="left")
        panels[0].legend(frameon=False, loc="upper center")
        figure.supxlabel("volume per atom (Å³)", x=0.4)
        figure.supylabel("energy above the best fcc (meV per atom)")
        figure.suptitle("Equations of state with ASE's EMT potential", fontweight="bold")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--executor", help="a cluster's name, such as slurm or local; default: the server's choice")
    options.add_argument("--plot", type=Path, help="write the curves to this file (png, pdf or svg)")
    chosen = options.parse_args()

    workflow = hf.lattice(executor=chosen.executor)(equations_of_state)
    result = hf.dispatch_sync(workflow)(METALS, STRAINS)
    if result.status != "COMPLETED":
        raise SystemExit(result.error)

    table: dict[str, dict[str, Curve]] = result.result
    print(as_text(table))
    if chosen.plot is not None:
        draw(table, chosen.plot)
        print(f"Plot: {chosen.plot}")
    print(f"completed: {len(table) * 2 * (len(STRAINS) + 2) + 1} electrons in dispatch {result.dispatch_id}")


if __name__ == "__main__":
    main()
