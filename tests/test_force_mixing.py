"""ForceMixingCalculator: right in the limits where the answer is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from mixing_fixtures import (
    KUMAGAI_RANGE,
    SILICON,
    kumagai,
    silicon_cell,
    stillinger_weber,
    tetrahedral_interstitial,
    vacancy,
)

from ase_qmmm import ForceMixingCalculator, Regions, TightBinding

# Buffer beyond the range of the quantum model, so that its cluster is as good as the whole.
FULL = KUMAGAI_RANGE + 0.1
# Kumagai's and the crystal's lattice constants differ, which does not matter on a lattice.
ROUNDING = 1e-10


def random_mask(n, size, seed):
    mask = np.zeros(n, bool)
    mask[np.random.default_rng(seed).choice(n, size, replace=False)] = True
    return mask


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


# -- patch test: no force on the perfect crystal -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_patch_finite_range(seed):
    atoms = silicon_cell(4)
    mask = random_mask(len(atoms), 1 + 3 * seed, seed)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), mask, r_buffer=FULL, cluster="open")
    assert np.abs(forces(calc, atoms)).max() < 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["periodic", "auto"])
def test_patch_tight_binding_periodic(kind, seed, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    mask = random_mask(len(atoms), 3, seed)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, mask, r_buffer=2.5, cluster=kind)
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    assert {c.kind for c in calc.clusters} <= {"periodic", "whole"}


@pytest.mark.parametrize("seed", range(3))
def test_patch_tight_binding_open(seed, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    # Two atoms side by side: a single one would feel no force by symmetry.
    mask = random_mask(len(atoms), 2, seed)
    near = atoms.get_distances(np.argmax(mask), range(len(atoms)), mic=True)
    mask[np.argsort(near)[1]] = True
    options = {"r_buffer": 4.0, "cluster": "open"}
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, mask, **options)
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    assert {c.kind for c in calc.clusters} == {"open"}
    # It is the dead load that does it: the open surface alone is felt.
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, mask, dead_load=False, **options)
    assert np.abs(forces(calc, atoms)).max() > 1e-3


def test_patch_of_a_wire(silicon_qm, silicon_mm, silicon_crystal):
    """A column of atoms through the cell: the cluster stays periodic along it, with k-points."""
    atoms = silicon_cell(3, silicon_crystal)
    atoms = atoms[atoms.positions[:, 2] < atoms.cell[2, 2] / 3 - 0.1]
    atoms.set_cell(atoms.cell.array * [[1], [1], [1 / 3]])
    across = np.linalg.norm((atoms.positions - atoms.positions[10])[:, :2], axis=1)
    regions = Regions(across < 0.1, across < 4.0)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, regions, cluster="open")
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    (cluster,) = calc.clusters
    assert cluster.atoms.pbc.tolist() == [False, False, True]
    assert tuple(calc.cluster_calculators[0].kpts["size"])[2] > 1


def test_patch_of_a_strained_crystal(silicon_qm, silicon_mm, silicon_crystal):
    """At another lattice constant than the model's own the dead load is that of the strained crystal."""
    atoms = silicon_cell(3, silicon_crystal)
    atoms.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [40], r_buffer=4.0, cluster="open")
    assert np.abs(forces(calc, atoms)).max() < 1e-8


# -- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["open", "periodic", "auto"])
@pytest.mark.parametrize("crystal", [SILICON, None])
def test_full_buffer_is_exact(kind, crystal):
    atoms, place = vacancy(5, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, FULL)
    qm, mm = kumagai(), stillinger_weber()
    if kind == "periodic" and crystal is None:
        return
    # Nothing to subtract where the surface is not felt.
    calc = ForceMixingCalculator(qm, mm, regions, cluster=kind, crystal=crystal)
    got = forces(calc, atoms)
    assert len(calc.clusters[0].index) < len(atoms)
    assert np.abs(got - forces(kumagai(), atoms))[regions.qm].max() < ROUNDING
    assert np.abs(got - forces(stillinger_weber(), atoms))[~regions.qm].max() < ROUNDING


def test_equal_models_are_the_plain_model():
    atoms, place = vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 2.5, FULL)
    calc = ForceMixingCalculator(kumagai(), kumagai(), regions, cluster="open")
    assert np.abs(forces(calc, atoms) - forces(kumagai(), atoms)).max() < ROUNDING


def test_scattered_fragments_are_exact(rng):
    atoms = silicon_cell(5)
    atoms.rattle(0.05, seed=3)
    regions = [3, 500, 777]
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, r_buffer=FULL, cluster="open")
    got = forces(calc, atoms)
    assert np.abs(got - forces(kumagai(), atoms))[regions].max() < ROUNDING


@pytest.mark.parametrize("everything", ["slice", "mask", "regions"])
def test_all_qm_is_pure_qm(everything, silicon_qm, silicon_mm, silicon_crystal):
    atoms, _ = vacancy(2, silicon_crystal, rattle=0.05)
    mask = np.ones(len(atoms), bool)
    selections = {"slice": slice(None), "mask": mask, "regions": Regions(mask)}
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, selections[everything])
    # To the last bit.
    assert np.array_equal(forces(calc, atoms), forces(silicon_qm, atoms))
    assert calc.get_property("energy", atoms) == silicon_qm.get_property("energy", atoms)


def test_no_qm_is_pure_mm():
    atoms = silicon_cell(2)
    atoms.rattle(0.05, seed=3)
    none = np.zeros(len(atoms), bool)
    with pytest.raises(ValueError, match="no qm atom.*allow_empty_qm=True"):
        forces(ForceMixingCalculator(kumagai(), stillinger_weber(), none, r_buffer=3.0), atoms)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), none, r_buffer=3.0, allow_empty_qm=True)
    assert np.array_equal(forces(calc, atoms), forces(stillinger_weber(), atoms))
    assert calc.get_property("energy", atoms) == pytest.approx(
        stillinger_weber().get_property("energy", atoms), abs=1e-9
    )
    assert calc.clusters == []


def test_frozen_atoms_carry_no_force(silicon_qm, silicon_mm, silicon_crystal):
    """A Taylor model is not asked for them: a surface may lie there."""
    atoms, place = vacancy(3, silicon_crystal, rattle=0.02)
    ball = atoms[np.linalg.norm(atoms.positions - place, axis=1) < 9.5]
    ball.pbc = False
    distance = np.linalg.norm(ball.positions - place, axis=1)
    regions = Regions(distance < 5.0, distance < 6.0, distance > 4.0 + 1.2)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, regions, cluster="open")
    got = forces(calc, ball)
    assert np.abs(got[regions.frozen]).max() == 0.0
    assert (np.linalg.norm(got[regions.qm], axis=1) > 0).all()


def test_a_cluster_off_the_lattice_has_no_dead_load(silicon_qm, silicon_crystal):
    """An interstitial alone: there is no perfect crystal to compare it with."""
    atoms, _ = tetrahedral_interstitial(2, silicon_crystal)
    last = len(atoms) - 1
    calc = ForceMixingCalculator(
        silicon_qm, stillinger_weber(), [last], r_buffer=0.0, cluster="open", crystal=silicon_crystal
    )
    # A free atom feels nothing.
    assert np.abs(forces(calc, atoms)[last]).max() < ROUNDING


# -- selections --------------------------------------------------------------------------------------------


def test_mask_list_and_slice_with_a_buffer():
    atoms = silicon_cell(4)
    atoms.rattle(0.05, seed=3)
    mask = np.zeros(len(atoms), bool)
    mask[4:7] = True
    selections = [mask, [4, 5, 6], [4, 5, 6 - len(atoms)], slice(4, 7), np.array([6, 5, 4])]
    calcs = [ForceMixingCalculator(kumagai(), stillinger_weber(), s, r_buffer=4.0) for s in selections]
    results = [forces(calc, atoms) for calc in calcs]
    for calc, result in zip(calcs, results, strict=True):
        assert np.array_equal(result, results[0])
        assert calc.regions == calcs[0].regions
    distance = np.array([atoms.get_distances(k, range(len(atoms)), mic=True) for k in (4, 5, 6)]).min(axis=0)
    assert np.array_equal(calcs[0].regions.buffer, (distance <= 4.0) & ~mask)


def test_regions_can_be_changed():
    atoms = silicon_cell(4)
    atoms.rattle(0.05, seed=3)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), [4], r_buffer=FULL)
    first = forces(calc, atoms)
    calc.regions = [50]
    with pytest.raises(ValueError, match="not carved yet"):
        _ = calc.clusters
    assert calc.results == {}
    second = forces(calc, atoms)
    assert np.array_equal(calc.regions.qm, np.arange(len(atoms)) == 50)
    reference = forces(stillinger_weber(), atoms)
    assert np.flatnonzero(np.abs(first - reference).max(axis=1) > 1e-6).tolist() == [4]
    assert np.flatnonzero(np.abs(second - reference).max(axis=1) > 1e-6).tolist() == [50]
    calc.regions = Regions([50], n_atoms=len(atoms))
    assert np.array_equal(forces(calc, atoms), second)


@pytest.mark.parametrize(
    "kpts", [(1, 1, 2), [[0, 0, 0.125], [0, 0, 0.375], [0, 0, -0.125], [0, 0, -0.375]]], ids=["grid", "list"]
)
def test_k_points_of_the_whole_cell_are_those_given(kpts):
    """Where the quantum call is on the whole cell, forces are those of the model to the last digit."""
    qm = TightBinding("nrl-Si-sp", kT=0.3, mu=5.8, kpts=kpts)
    atoms = SILICON.supercell((3, 3, 1), cubic=True)
    atoms.rattle(0.03, seed=1)
    inside = np.arange(len(atoms)) != 5
    calc = ForceMixingCalculator(qm, stillinger_weber(), Regions(inside, ~inside), crystal=SILICON)
    exact = qm.get_property("forces", atoms)
    assert np.allclose(forces(calc, atoms)[inside], exact[inside], rtol=0, atol=1e-12)
