"""The example's physics, called as plain Python: no server, no dispatch."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("ase")
from ase.calculators.emt import parameters
from ase.units import Bohr

from examples.eos import eos

# a0 in angstrom, B0 in GPa and cohesive energy in eV of fcc, as a plain loop over ase 3.29 gave them.
FCC = {
    "Al": (3.99, 39, 3.28),
    "Ni": (3.49, 175, 4.45),
    "Cu": (3.59, 134, 3.52),
    "Pd": (3.88, 179, 3.90),
    "Ag": (4.06, 100, 2.96),
    "Pt": (3.92, 278, 5.85),
    "Au": (4.06, 174, 3.80),
}


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, eos.Curve]]:
    return eos.equations_of_state(eos.METALS, eos.STRAINS)


@pytest.mark.parametrize("metal", FCC)
def test_the_workflow_gives_what_a_plain_loop_over_ase_gave(table: dict[str, dict[str, eos.Curve]], metal: str) -> None:
    lattice_constant, bulk_modulus, cohesive_energy = FCC[metal]
    fcc = table[metal]["fcc"]
    assert fcc.lattice_constant == pytest.approx(lattice_constant, abs=0.01)
    assert fcc.bulk_modulus_gpa == pytest.approx(bulk_modulus, abs=1.5)
    assert fcc.cohesive_energy == pytest.approx(cohesive_energy, abs=0.01)


@pytest.mark.parametrize("metal", FCC)
def test_fcc_comes_out_as_the_potential_was_parametrised(table: dict[str, dict[str, eos.Curve]], metal: str) -> None:
    energy, radius_in_bohr = parameters[metal][:2]
    fcc = table[metal]["fcc"]
    assert fcc.cohesive_energy == pytest.approx(-energy, rel=5e-3)
    # The parameters hold for nearest neighbours alone; those further out contract the crystal, Al's most.
    assert 0.98 < fcc.lattice_constant / (radius_in_bohr * Bohr * (16 * math.pi / 3) ** (1 / 3)) < 1


@pytest.mark.parametrize("metal", FCC)
def test_emt_prefers_fcc_to_bcc_for_every_metal(table: dict[str, dict[str, eos.Curve]], metal: str) -> None:
    assert list(table[metal]) == ["fcc", "bcc"]
    assert table[metal]["bcc"].cohesive_energy < table[metal]["fcc"].cohesive_energy


@pytest.mark.parametrize("structure", ["fcc", "bcc"])
def test_the_fit_finds_the_lattice_constant_at_which_the_stress_vanished(structure: str) -> None:
    relaxed = eos.relax("Cu", structure)
    curve = eos.fit("Cu", structure, [eos.strain("Cu", structure, relaxed, amount) for amount in eos.STRAINS])
    assert curve.lattice_constant == pytest.approx(relaxed, rel=2e-4)


def test_the_printed_table_has_a_line_for_each_metal_and_structure(table: dict[str, dict[str, eos.Curve]]) -> None:
    lines = eos.as_text(table).splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [[metal, kind] for metal in eos.METALS for kind in ("fcc", "bcc")]
    assert lines[4].split() == ["Cu", "fcc", "3.590", "134", "3.517", "0.00", "3.615", "3.51"]


def test_the_plot_is_a_picture(table: dict[str, dict[str, eos.Curve]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    eos.draw(table, tmp_path / "new folder" / "eos.png")
    assert (tmp_path / "new folder" / "eos.png").read_bytes().startswith(b"\x89PNG\r\n")
