"""NRL models against the printed output of NRL's own program (tests/data/nrl_static.json)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import Bohr, GPa, Ry

from ase_qmmm import TightBinding

STATIC = json.loads((Path(__file__).parent / "data" / "nrl_static.json").read_text(encoding="utf-8"))
ROWS = [
    pytest.param(run, row, id=f"{name} {row[0]}")
    for name, run in STATIC["runs"].items()
    for row in run["rows"]
]
TITANIUM = STATIC["runs"]["titanium, compressed along c"]
TUNGSTEN = {"model": "nrl-W-spd", "kT": 0.005, "size": [8, 8, 8]}


def hexagonal(volume: float, axial_ratio: float) -> Atoms:
    """Primitive cell of hcp titanium; volume in cubic Bohr."""
    a = (volume / (np.sqrt(3) / 2 * axial_ratio)) ** (1 / 3) * Bohr
    return bulk("Ti", "hcp", a=a, c=a * axial_ratio)


def structure(run, label: float, volume: float) -> Atoms:
    """As the page of the run says: hcp by c/a, or cubic copper under its orthorhombic strain."""
    if run["structure"] == "hcp":
        return hexagonal(volume, label)
    atoms = bulk("Cu", "fcc", a=(4 * volume) ** (1 / 3) * Bohr, cubic=True)
    return strained(atoms, (np.sqrt(label), -np.sqrt(label), label / (1 - label)))


def strained(atoms: Atoms, strains: tuple[float, ...]) -> Atoms:
    """A copy, stretched along the Cartesian axes with its basis."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * (1 + np.array(strains)), scale_atoms=True)
    return copy


def calculator(run) -> TightBinding:
    """Energies of the program have no entropy, and its Hamiltonian ends as the parameters say.

    The smooth end changes energies here by up to 1e-6 Ry.
    """
    grid = {"size": tuple(run["size"]), "gamma": True}
    return TightBinding(run["model"], kT=run["kT"] * Ry, kpts=grid, energy="band", cutoff_form="original")


def energy(run, atoms: Atoms) -> float:
    """Band energy of the cell, eV."""
    return calculator(run).evaluate(atoms).energy


@pytest.mark.parametrize(("run", "row"), ROWS)
def test_energies_and_fermi_levels(run, row):
    label, volume, mu, expected = row
    atoms = structure(run, label, volume)
    calc = calculator(run)
    cells = {"fcc": 4, "hcp": 1}[run["structure"]]
    assert atoms.get_volume() / cells == pytest.approx(volume * Bohr**3, rel=1e-8)
    # Nine decimals are printed; the last one may be off by one.
    assert calc.evaluate(atoms).energy / cells / Ry == pytest.approx(expected, abs=1.5e-9)
    assert calc.last_mu / Ry == pytest.approx(mu, abs=1.5e-9)


@pytest.mark.slow
def test_elastic_constants_of_titanium():
    """As the manual has it: polynomials through band energies at strains of up to 5 %.

    Its strains and degrees are not known in full; a quartic through eleven points is within 0.2 GPa.
    """
    published = STATIC["elastic_GPa"]["titanium"]
    cell = hexagonal(published["volume"], published["c/a"])
    strains = np.linspace(-0.05, 0.05, 11)
    for axes, name, factor in (((0, 0, 1), "C33", 1), ((1, 1, 0), "C11+C12", 2)):
        energies = [energy(TITANIUM, strained(cell, tuple(np.multiply(axes, x)))) for x in strains]
        curve = np.polynomial.Polynomial.fit(strains, energies, 4)
        constant = curve.deriv(2)(0) / factor / cell.get_volume() / GPa
        assert constant == pytest.approx(published[name], abs=0.2)


def test_bulk_modulus_of_tungsten():
    """Printed without decimals, from a fit over volumes that are not known."""
    lengths = np.linspace(5.7, 6.3, 7) * Bohr
    energies = [energy(TUNGSTEN, bulk("W", "bcc", a=a, cubic=True)) for a in lengths]
    curve = np.polynomial.Polynomial.fit(lengths**-2.0, energies, 3)
    x = next(r.real for r in curve.deriv().roots() if curve.deriv(2)(r.real) > 0)
    volume = x**-1.5
    # At the minimum V d2E/dV2 = V (dx/dV)^2 d2E/dx2, with x = V^(-2/3).
    modulus = volume * (2 / 3 * volume ** (-5 / 3)) ** 2 * curve.deriv(2)(x) / GPa
    assert modulus == pytest.approx(STATIC["elastic_GPa"]["tungsten"]["B"], abs=1.0)
