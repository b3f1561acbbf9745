"""The Ising example's physics, as plain Python beside exact results, and the example from beginning to end."""

from __future__ import annotations

import itertools
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.ising import ising
from tests.integration.servers import run, stopped_afterwards

PROGRAM = Path(ising.__file__)
SMALL = ("--sizes", "4", "16", "--precision", "0.003", "--sweeps", "3000")


def exact(size: int, temperature: float) -> tuple[float, float, float]:
    """Energy and absolute magnetisation per spin and Binder cumulant, summed over all states of a small lattice."""
    spins = np.array(list(itertools.product((-1, 1), repeat=size * size)), dtype=np.int8).reshape(-1, size, size)
    energy = ising.energies(spins)
    magnetisation = spins.mean(axis=(1, 2))
    weights = np.exp(-(energy - energy.min()) * size * size / temperature)
    weights /= weights.sum()
    second, fourth = (float((weights * magnetisation**power).sum()) for power in (2, 4))
    return (
        float((weights * energy).sum()),
        float((weights * abs(magnetisation)).sum()),
        1 - fourth / (3 * second**2),
    )


@pytest.mark.parametrize("temperature", [1.5, ising.ONSAGER, 4.0])
def test_a_lattice_of_sixteen_spins_has_the_moments_of_its_65536_states(temperature: float) -> None:
    point = ising.simulate(4, temperature, 7, 0.001, 4000)
    energy, magnetisation, binder = exact(4, temperature)
    assert point.binder == pytest.approx(binder, abs=5 * point.binder_error + 1e-4)
    assert point.energy == pytest.approx(energy, abs=0.02)
    assert point.magnetisation == pytest.approx(magnetisation, abs=0.02)


def test_a_cold_lattice_is_ordered_as_onsager_and_yang_say() -> None:
    point = ising.simulate(16, 2.0, 3, 1e-9, 3000)
    assert point.magnetisation == pytest.approx(ising.spontaneous(2.0), abs=0.01)
    assert ising.spontaneous(2.0) == pytest.approx(0.9113, abs=1e-4)
    # The infinite lattice has -1.7456.
    assert point.energy == pytest.approx(-1.7456, abs=0.01)
    # In a lattice without end it is 2/3.
    assert 0.655 < point.binder < 2 / 3


def test_a_hot_lattice_is_not_ordered() -> None:
    point = ising.simulate(16, 5.0, 3, 0.02, 2000)
    assert point.magnetisation < 0.12
    assert abs(point.binder) < 0.1
    assert ising.spontaneous(5.0) == 0


def test_the_same_seed_gives_the_same_point_and_another_one_another() -> None:
    first, again, other = (ising.simulate(6, 2.3, seed, 0.01, 500) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_precision_takes_more_sweeps_and_no_more_than_allowed() -> None:
    rough, fine, short = (ising.simulate(8, 2.27, 1, *limits) for limits in ((0.02, 9000), (0.004, 9000), (1e-9, 640)))
    assert fine.binder_error <= 0.004
    assert rough.sweeps < fine.sweeps
    assert short.sweeps == 640


def points(size: int, slope: float, temperatures: tuple[float, ...], crossing: float) -> list[ising.Point]:
    made = ising.Point(size, 0.0, 1, 0.0, 0.0, 0.0, 0.0, 0.001)
    return [replace(made, temperature=at, binder=0.61 - slope * (at - crossing)) for at in temperatures]


def test_two_lines_meet_where_they_were_made_to_meet() -> None:
    temperatures = (2.22, 2.24, 2.26, 2.28, 2.3)
    near = points(8, 0.2, temperatures, 2.2712) + points(24, 0.6, temperatures, 2.2712)
    study = ising.conclude([], near)
    assert study.critical.temperature == pytest.approx(2.2712, abs=1e-6)
    # Of each line the value is known to 0.001 / sqrt(5) and less; they differ in slope by 0.4.
    assert 0.001 < study.critical.error < 0.003


def test_the_first_look_ignores_crossings_by_noise_in_the_ordered_phase() -> None:
    small, large = (points(size, slope, (1.8, 2.0, 2.2, 2.4), 2.3) for size, slope in ((8, 0.2), (24, 0.6)))
    large[0] = replace(large[0], binder=0.9)
    large[1] = replace(large[1], binder=small[1].binder - 1e-4)
    assert ising.first_look([*small, *large]) == pytest.approx(2.3)


def test_cumulants_that_do_not_cross_are_said_so() -> None:
    with pytest.raises(ValueError, match=r"do not cross between 1\.8 and 2\.2"):
        ising.first_look(points(8, 0.2, (1.8, 2.0, 2.2), 2.5) + points(24, 0.6, (1.8, 2.0, 2.2), 2.5))


def test_odd_lattices_are_refused_in_a_sentence(tmp_path: Path) -> None:
    done = run(sys.executable, str(PROGRAM), "--sizes", "7", "8", cwd=tmp_path)
    assert done.returncode == 2
    assert "even numbers" in done.stderr


def assert_it_finds_the_critical_temperature(executor: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "new folder" / "ising.png"
    done = run(sys.executable, str(PROGRAM), "--executor", executor, "--plot", str(plot), *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"T_c = (\S+) ± (\S+) from Binder cumulants; Onsager: 2\.269", done.stdout.splitlines()[-1])
    assert said is not None, done.stdout
    found, error = map(float, said.groups())
    # Lattices of 4 are so small that their crossing is off by 0.02.
    assert found == pytest.approx(ising.ONSAGER, abs=4 * error + 0.03)
    assert error < 0.03
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.slow
def test_the_example_finds_the_critical_temperature_on_this_machine(hpcflow_home: Path, tmp_path: Path) -> None:
    with stopped_afterwards(tmp_path):
        assert_it_finds_the_critical_temperature("local", tmp_path)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_example_finds_the_critical_temperature_on_slurm(hpcflow_home: Path, tmp_path: Path) -> None:
    with stopped_afterwards(tmp_path):
        assert_it_finds_the_critical_temperature("slurm", tmp_path)
