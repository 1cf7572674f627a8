"""cluster="auto": embedded where no periodic box fits, also where no one lattice runs through; else open."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase import Atoms

from ase_qmmm import (
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    SiteCalculator,
    SiteResult,
    TightBinding,
    fermi_level,
)
from ase_qmmm.defects import screw_dislocation

EDGE = 2.5  # Å
TRIANGULAR = Crystal(Atoms("Ni", cell=[[EDGE, 0, 0], [EDGE / 2, 2.165064, 0], [0, 0, 0]], pbc=[1, 1, 0]))
TOY = TightBinding("toy")


class Nothing(SiteCalculator):
    """A far field without forces: only quantum atoms are looked at."""

    cutoff = 5.0

    def evaluate(self, atoms, weights=None):
        n = len(atoms)
        return SiteResult(0.0, np.zeros(n), np.zeros((n, 3)), np.zeros((3, 3)))


def mixture(regions, qm=TOY, crystal=TRIANGULAR, make=ForceMixingCalculator, **options):
    return make(qm, Nothing(), regions, crystal=crystal, **options)


def qm_error(calc, atoms, exact):
    """Largest error of the force on a qm atom (eV/Å)."""
    difference = calc.get_property("forces", atoms) - exact
    return np.linalg.norm(difference[calc.regions.qm], axis=1).max()


def everywhere(qm, crystal, **options):
    """The quantum model in the ensemble that mixtures use."""
    return qm.with_options(mu=fermi_level(qm, crystal), energy="grand", **options)


def two_vacancies():
    """Vacancies so near to each other that the box around either has the other at a face."""
    atoms = TRIANGULAR.supercell(18)
    places = []
    for shift in (0.0, 12.5):
        place = atoms.cell.sum(axis=0) / 2 + [shift - 6.0, 0, 0]
        lost = int(np.argmin(np.linalg.norm(atoms.positions - place, axis=1)))
        places.append(atoms.positions[lost].copy())
        del atoms[lost]
    return atoms, np.array(places)


def edge_dislocation(radius=24.0):
    """A disc of the triangular lattice with an edge dislocation, displaced by the angle alone."""
    atoms = TRIANGULAR.supercell(40)
    atoms.pbc = False
    atoms.positions -= atoms.cell.sum(axis=0) / 2 - [0.4, 0.7, 0.0]
    x, y, _ = atoms.positions.T
    atoms.positions[:, 0] += EDGE * np.arctan2(y, x) / (2 * np.pi)
    atoms = atoms[np.hypot(x, y) < radius]
    atoms.cell = None
    return atoms, np.linalg.norm(atoms.positions, axis=1)


def test_embedded_where_no_box_fits(caplog):
    atoms, places = two_vacancies()
    regions = Regions.from_distance(atoms, places[0], 5.2, 6.0)
    moved = np.random.default_rng(1).normal(size=(len(atoms), 3)) * [0.05, 0.05, 0.0]
    atoms.positions += moved * regions.qm[:, None]
    calc = mixture(regions)
    with caplog.at_level(logging.INFO, logger="ase_qmmm.mixing"):
        clusters = calc.prepare(atoms)
    assert [c.kind for c in clusters] == ["embedded"]
    assert "no periodic box: a defect lies at a face" in caplog.text
    exact = everywhere(TOY, TRIANGULAR).get_property("forces", atoms)
    # The vacancy in the surroundings, which are those of the crystal, is most of the error that is left.
    error = qm_error(calc, atoms, exact)
    assert error < 3e-3 and error < qm_error(mixture(regions, cluster="open"), atoms, exact)


def test_a_box_where_one_fits():
    atoms, places = two_vacancies()
    calc = mixture(Regions.from_distance(atoms, places[0], 2.6, 2.6))
    assert [c.kind for c in calc.prepare(atoms)] == ["periodic"]


def test_open_where_the_buffer_is_too_narrow_to_embed(caplog):
    atoms, r = edge_dislocation()
    calc = mixture(Regions(r < 5.0, (r >= 5.0) & (r < 6.5), r > 19.0))
    with caplog.at_level(logging.INFO, logger="ase_qmmm.mixing"):
        clusters = calc.prepare(atoms)
    assert [c.kind for c in clusters] == ["open"]
    assert "open rather than embedded: cluster: 'embedded' needs a buffer" in caplog.text


@pytest.mark.parametrize("make", [ForceMixingCalculator, EnergyMixingCalculator])
def test_first_geometry_of_a_dislocation(make):
    """No lattice runs through it: the surroundings are those of the first geometry, and stay so."""
    atoms, r = edge_dislocation()
    regions = Regions(r < 5.0, (r >= 5.0) & (r < 11.0), r > 19.0)
    options = {"ghost_force_correction": False} if make is EnergyMixingCalculator else {}
    calc = mixture(regions, make=make, **options)
    assert [c.kind for c in calc.prepare(atoms)] == ["embedded"]
    first = calc.cluster_calculators[0].solver.reference
    assert np.array_equal(first.positions, atoms.positions)
    open_calc = mixture(regions, make=make, cluster="open", **options)
    quantum = everywhere(TOY, TRIANGULAR)
    for moved in (atoms, relaxed_a_little(atoms, r)):
        if make is ForceMixingCalculator:
            exact = quantum.get_property("forces", moved)
        else:
            exact = quantum.evaluate(moved, regions.qm.astype(float)).forces
        error = qm_error(calc, moved, exact)
        assert error < 0.2 * qm_error(open_calc, moved, exact)
    assert np.array_equal(calc.cluster_calculators[0].solver.reference.positions, atoms.positions)


def relaxed_a_little(atoms, r):
    moved = atoms.copy()
    moved.rattle(0.05, seed=2)
    moved.positions[r > 9.0] = atoms.positions[r > 9.0]
    return moved


@pytest.mark.slow
def test_screw_dislocation_in_silicon(silicon_qm, silicon_crystal):
    """Against all 508 atoms: as good as the depth of the surroundings, 12 Å, and far better than open."""
    elastic = np.diag([0.0, 0.0, 0.0, 0.59, 0.59, 0.59])  # eV/Å^3, docs/taylor.md
    elastic[:3, :3] = 0.45
    elastic[range(3), range(3)] = 1.12
    atoms = screw_dislocation(
        silicon_crystal, (0.5, 0.5, 0), elastic_constants=elastic, radius=24.0, frozen_width=5.0
    )
    r = np.linalg.norm((atoms.positions - atoms.info["core"])[:, :2], axis=1)
    regions = Regions(r < 3.5, (r >= 3.5) & (r < 10.3), r > 19.0)
    calc = mixture(regions, silicon_qm, silicon_crystal)
    assert [c.kind for c in calc.prepare(atoms)] == ["embedded"]
    kpts = calc.cluster_calculators[0].kpts
    exact = everywhere(silicon_qm, silicon_crystal, kpts=kpts).get_property("forces", atoms)
    error = qm_error(calc, atoms, exact)
    other = qm_error(mixture(regions, silicon_qm, silicon_crystal, cluster="open"), atoms, exact)
    assert error < 0.2 * other
