"""Frozen self-energy embedding: exact where it must be, and gradients of what it says."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_qmmm import Crystal, Embedded, StructureError, TightBinding, fermi_level
from ase_qmmm.tightbinding.embedding import _resolvents

MU = 5.82  # eV, in the gap of nrl-Si-sp
ERROR = 1e-8


@pytest.fixture(scope="module")
def crystal():
    return Crystal(bulk("Si", a=5.4264))


def quantum(solver="dense", **changes):
    return TightBinding("nrl-Si-sp", kT=0.1, mu=MU, solver=solver, **changes)


def mask(atoms, *numbers):
    out = np.zeros(len(atoms), dtype=bool)
    out[list(numbers)] = True
    return out


def ball(crystal, radius):
    """Free cluster around a bond, nearest atoms first."""
    atoms = crystal.supercell(5, cubic=True)
    centre = atoms.positions.mean(axis=0)
    distance = np.linalg.norm(atoms.positions - centre, axis=1)
    order = np.argsort(distance)
    atoms = atoms[order[distance[order] < radius]]
    atoms.pbc = False
    atoms.cell = None
    return atoms


def test_perfect_crystal_has_no_forces_and_the_site_energy_of_the_infinite_crystal(crystal):
    atoms = crystal.supercell(3, cubic=True)
    calc = quantum(Embedded(crystal, error=ERROR))
    energies, forces = calc.evaluate_sites(atoms, mask(atoms, 40, 41))
    bulk_energy = quantum().for_crystal(crystal.unit_cell).evaluate(crystal.unit_cell).energies[0]
    assert np.abs(forces).max() < 1e-8
    assert energies[[40, 41]] == pytest.approx(bulk_energy, abs=1e-6)
    assert not energies[:40].any()


def test_surroundings_that_are_those_of_the_structure_make_it_exact(crystal, rng):
    """The self-energy of the actual geometry is no approximation: any free cluster equals dense."""
    atoms = ball(crystal, 9.5)
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    sites = mask(atoms, 0, 1, 2)
    dense = quantum().evaluate(atoms)
    energies, forces = quantum(Embedded(atoms, depth=30.0, error=ERROR)).evaluate_sites(atoms, sites)
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 1e-6
    assert np.abs(energies[sites] - dense.energies[sites]).max() < 1e-6


def test_weighted_sites_in_actual_surroundings_equal_dense(crystal, rng):
    atoms = ball(crystal, 9.0)
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    weights = np.zeros(len(atoms))
    weights[:4] = [1.0, 0.5, -0.3, 2.0]
    dense = quantum().evaluate(atoms, weights)
    embedded = quantum(Embedded(atoms, depth=30.0, error=ERROR)).evaluate(atoms, weights)
    assert embedded.energy == pytest.approx(dense.energy, abs=1e-6)
    assert np.abs(embedded.energies[:4] - dense.energies[:4]).max() < 1e-6
    # Atoms next to the weighted ones move no self-energy, so that their gradients are the same too.
    assert np.abs(embedded.forces[:4] - dense.forces[:4]).max() < 1e-6


def test_wire_with_k_points_equals_dense(crystal, rng):
    """Periodic along one axis: a self-energy for each k-point."""
    atoms = crystal.supercell((1, 4, 4), cubic=True)
    atoms.pbc = (True, False, False)
    atoms.positions += 0.03 * rng.standard_normal(atoms.positions.shape)
    middle = int(np.argmin(np.linalg.norm((atoms.positions - atoms.cell.sum(axis=0) / 2)[:, 1:], axis=1)))
    sites = mask(atoms, middle)
    dense = quantum(kpts=(4, 1, 1)).evaluate(atoms)
    calc = quantum(Embedded(atoms, depth=40.0, error=ERROR), kpts=(4, 1, 1))
    energies, forces = calc.evaluate_sites(atoms, sites)
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 1e-6
    assert energies[middle] == pytest.approx(dense.energies[middle], abs=1e-6)
    weights = sites.astype(float)
    expected, got = quantum(kpts=(4, 1, 1)).evaluate(atoms, weights), calc.evaluate(atoms, weights)
    assert np.abs(got.forces[sites] - expected.forces[sites]).max() < 1e-6


def test_column_in_the_crystal_is_the_crystal(crystal):
    """A cluster that spans a short periodic direction, in the infinite crystal."""
    atoms = crystal.supercell((1, 4, 4), cubic=True)
    middle = int(np.argmin(np.linalg.norm((atoms.positions - atoms.cell.sum(axis=0) / 2)[:, 1:], axis=1)))
    calc = quantum(Embedded(crystal, error=1e-8), kpts={"size": (8, 1, 1), "gamma": True})
    energies, forces = calc.evaluate_sites(atoms, mask(atoms, middle))
    (cluster,) = calc.solver.clusters(calc, atoms, mask(atoms, middle))
    assert cluster.pbc.tolist() == [True, False, False]
    bulk_energy = quantum().for_crystal(crystal.unit_cell).evaluate(crystal.unit_cell).energies[0]
    assert np.abs(forces).max() < 1e-7
    assert energies[middle] == pytest.approx(bulk_energy, abs=2e-5)  # 43 Å sampled along the column


def test_weighted_gradient_is_that_of_the_energy(crystal, rng):
    atoms = crystal.supercell(3, cubic=True)
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    calc = quantum(Embedded(crystal, region=[50, 51, 60]))
    result = calc.evaluate(atoms)
    direction = rng.standard_normal(atoms.positions.shape)
    slopes = []
    for step in (4e-3, 2e-3):
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * direction
            ends.append(calc.evaluate(moved).energy)
        slopes.append((ends[0] - ends[1]) / (2 * step))
    extrapolated = (4 * slopes[1] - slopes[0]) / 3
    assert -(result.forces * direction).sum() == pytest.approx(extrapolated, rel=1e-6)


def test_forces_are_the_gradient_of_the_grand_potential(crystal, rng):
    """Hellmann–Feynman forces against differences of ``-2 sum_q 2 Re[rho_q log det G(z_q)^-1]``."""
    atoms = crystal.supercell(3, cubic=True)
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    sites = mask(atoms, 50)
    calc = quantum(Embedded(crystal))
    forces = calc.evaluate_sites(atoms, sites)[1]
    (cluster,) = calc.solver.clusters(calc, atoms, sites)
    start = None

    def logs(positions):
        moved = atoms.copy()
        moved.positions[:] = positions
        ((matrices, spin),) = cluster.matrices(calc, moved, order=0)
        signs = np.array([np.linalg.slogdet(g) for _, g, _ in _resolvents(cluster, matrices, spin, 0)])
        return signs[:, 1].real, np.angle(signs[:, 0])

    start = logs(atoms.positions)
    slopes = np.zeros((2, 3))
    for n, step in enumerate((4e-3, 2e-3)):
        for axis in range(3):
            for sign in (1, -1):
                positions = atoms.positions.copy()
                positions[50, axis] += sign * step
                modulus, phase = logs(positions)
                # Phases are continuous: of all branches take that next to the start.
                turned = (phase - start[1] + np.pi) % (2 * np.pi) - np.pi
                log_det_g = (modulus - start[0]) + 1j * turned
                omega = 4 * (cluster.poles.occupation * log_det_g).real.sum()
                slopes[n, axis] += sign * omega / (2 * step)
    assert forces[50] == pytest.approx(-(4 * slopes[1] - slopes[0]) / 3, abs=1e-6)


def test_strained_and_rotated_crystal(crystal, rng):
    """The reference takes the strain and the orientation of the structure."""
    atoms = crystal.supercell(3, cubic=True)
    strain = np.eye(3) + 0.01 * rng.standard_normal((3, 3))
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    atoms.set_cell(atoms.cell.array @ strain @ rotation, scale_atoms=True)
    energies, forces = quantum(Embedded(crystal, error=1e-8)).evaluate_sites(atoms, mask(atoms, 7))
    cell = crystal.unit_cell
    cell.set_cell(cell.cell.array @ strain @ rotation, scale_atoms=True)
    expected = quantum().for_crystal(cell).evaluate(cell)
    assert energies[7] == pytest.approx(expected.energies[0], abs=1e-5)
    # Every second atom feels the force on its sublattice, as in the strained crystal.
    near = [np.abs(forces[7] - f).max() for f in expected.forces]
    assert min(near) < 5e-6  # k-points of the bulk cell


def test_vacancy_in_actual_surroundings_equals_dense(crystal, rng):
    """The reference knows nothing of the vacancy."""
    reference = ball(crystal, 9.5)
    atoms = reference[1:]
    atoms.positions[:20] += 0.05 * rng.standard_normal((20, 3))
    sites = mask(atoms, 0, 1)
    dense = quantum().evaluate(atoms)
    energies, forces = quantum(Embedded(reference, depth=30.0, error=ERROR)).evaluate_sites(atoms, sites)
    # The atoms outside stand in both at the same places, but feel those inside through their on-site terms.
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 2e-3
    assert np.abs(energies[sites] - dense.energies[sites]).max() < 1e-3


@pytest.mark.slow
def test_vacancy_in_the_crystal():
    """Forces next to a vacancy against dense tight binding of a periodic cell of 511 atoms."""
    crystal = Crystal(bulk("Si", a=5.4264))
    atoms = crystal.supercell(4, cubic=True)
    distance = atoms.get_distances(200, np.arange(len(atoms)), mic=True)
    near = np.flatnonzero((distance > 0.1) & (distance < 2.5))
    del atoms[200]
    near = near - (near > 200)
    # At Gamma alone the dispersion of the gap level still moves these forces by 0.02 eV/Å.
    dense = quantum(kpts={"size": (2, 2, 2), "gamma": True}).with_options(mu=5.4)
    expected = dense.evaluate(atoms).forces[near]
    embedded = quantum(Embedded(crystal, buffer=8.0)).with_options(mu=5.4)
    forces = embedded.evaluate_sites(atoms, mask(atoms, *near))[1][near]
    assert np.linalg.norm(expected, axis=1).min() > 0.3
    assert np.abs(forces - expected).max() < 0.01


def test_self_energy_is_kept_in_memory_and_on_disk(crystal, tmp_path, monkeypatch):
    from ase_qmmm.tightbinding.self_energy import CrystalSites

    atoms = crystal.supercell(3, cubic=True)
    sites = mask(atoms, 10)
    first = quantum(Embedded(crystal, cache=tmp_path))
    expected = first.evaluate_sites(atoms, sites)
    assert len(list(tmp_path.iterdir())) == 1
    calls = []
    original = CrystalSites.self_energy

    def counted(self, *args):
        calls.append(1)
        return original(self, *args)

    monkeypatch.setattr(CrystalSites, "self_energy", counted)
    moved = atoms.copy()
    moved.positions[10] += 0.05
    first.evaluate_sites(moved, sites)
    again = quantum(Embedded(crystal, cache=tmp_path)).evaluate_sites(atoms, sites)
    assert not calls
    assert np.array_equal(again[0], expected[0])
    # A translated cluster has the same self-energy.
    first.evaluate_sites(atoms, mask(atoms, 18))
    assert not calls
    # A file cut short is computed again.
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    mended = quantum(Embedded(crystal, cache=tmp_path)).evaluate_sites(atoms, sites)
    assert len(calls) == 1
    assert mended[0] == pytest.approx(expected[0])


def test_atoms_that_drift_refresh_the_cluster(crystal):
    atoms = crystal.supercell(3, cubic=True)
    calc = quantum(Embedded(crystal))
    sites = mask(atoms, 10)
    (before,) = calc.solver.clusters(calc, atoms, sites)
    atoms.positions[10] += (0.3, 0, 0)
    (same,) = calc.solver.clusters(calc, atoms, sites)
    assert same is before
    atoms.positions[10] += (0.25, 0, 0)
    (after,) = calc.solver.clusters(calc, atoms, sites)
    assert after is not before
    atoms.wrap()
    (wrapped,) = calc.solver.clusters(calc, atoms, sites)
    assert wrapped is after


def test_wrong_use_is_refused(crystal):
    atoms = crystal.supercell(3, cubic=True)
    sites = mask(atoms, 0)
    with pytest.raises(ValueError, match="mu: Embedded"):
        TightBinding("nrl-Si-sp", solver=Embedded(crystal)).evaluate_sites(atoms, sites)
    with pytest.raises(ValueError, match="expected at least the range"):
        quantum(Embedded(crystal, buffer=4.0)).evaluate_sites(atoms, sites)
    with pytest.raises(ValueError, match="needs 'grand'"):
        quantum(Embedded(crystal), energy="band").evaluate_sites(atoms, sites)
    with pytest.raises(ValueError, match="region: Embedded was given none"):
        quantum(Embedded(crystal)).evaluate(atoms)
    with pytest.raises(ValueError, match="do not fit"):
        quantum(Embedded(crystal, region=[5000])).evaluate(atoms)
    with pytest.raises(TypeError, match="bufer"):
        Embedded(crystal, bufer=7.0)
    with pytest.raises(TypeError, match="reference"):
        Embedded("Si")
    with pytest.raises(StructureError, match="check the crystal"):
        molten = atoms.copy()
        molten.rattle(1.5, seed=3)
        quantum(Embedded(crystal)).evaluate_sites(molten, sites)
    outside = atoms.copy()
    outside.cell *= 1.1
    with pytest.raises(StructureError, match="periodic cell"):
        quantum(Embedded(outside)).evaluate_sites(atoms, sites)


def test_cluster_that_meets_itself_is_refused(crystal):
    atoms = crystal.supercell(2, cubic=True)
    with pytest.raises(StructureError, match="meets its own images"):
        quantum(Embedded(crystal)).evaluate_sites(atoms, mask(atoms, 0))


def test_interstitial_near_the_boundary_is_refused(crystal):
    atoms = crystal.supercell(3, cubic=True)
    atoms += Atoms("Si", [atoms.positions[0] + atoms.cell.sum(axis=0) / 2 + np.full(3, 5.4264 / 2)])
    last = len(atoms) - 1
    distance = atoms.get_distances(last, np.arange(last), mic=True)
    far = int(np.argmin(np.abs(distance - 5.5)))
    with pytest.raises(StructureError, match="enlarge the buffer"):
        quantum(Embedded(crystal)).evaluate_sites(atoms, mask(atoms, far))


def test_d_orbitals_and_two_spins(rng):
    """A free chain of iron atoms against dense."""
    atoms = Atoms("Fe22", [(2.5 * k, 0, 0) for k in range(22)])
    atoms.positions += 0.05 * rng.standard_normal((22, 3))
    calc = TightBinding("nrl-Fe-spd-spin", kT=0.2, mu=3.0)
    sites = mask(atoms, 10, 11)
    dense = calc.evaluate(atoms)
    embedded = calc.with_options(solver=Embedded(atoms, depth=100.0, error=ERROR))
    energies, forces = embedded.evaluate_sites(atoms, sites)
    (cluster,) = embedded.solver.clusters(embedded, atoms, sites)
    assert len(cluster.sigma) == 2
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 1e-5
    assert np.abs(energies[sites] - dense.energies[sites]).max() < 1e-5


def test_repulsion_is_included(crystal, rng):
    """The orthogonal silicon of Kwon et al. in a free cluster."""
    atoms = ball(crystal, 8.0)
    atoms.positions += 0.05 * rng.standard_normal(atoms.positions.shape)
    calc = TightBinding("kwon-Si", kT=0.1, mu=1.0)
    sites = mask(atoms, 0, 3)
    dense = calc.evaluate(atoms)
    embedded = calc.with_options(solver=Embedded(atoms, depth=30.0, error=ERROR))
    energies, forces = embedded.evaluate_sites(atoms, sites)
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 1e-6
    assert np.abs(energies[sites] - dense.energies[sites]).max() < 1e-6
    weights = np.where(sites, 0.7, 0.0)
    expected, got = calc.evaluate(atoms, weights), embedded.evaluate(atoms, weights)
    assert got.energy == pytest.approx(expected.energy, abs=1e-6)
    assert np.abs(got.forces[sites] - expected.forces[sites]).max() < 1e-6


@pytest.mark.slow
def test_perfect_tungsten():
    calc = TightBinding("nrl-W-spd", kT=0.3)
    crystal = Crystal(bulk("W", a=3.1395))
    mu = fermi_level(calc, crystal, kpts=(12, 12, 12))
    atoms = crystal.supercell(7, cubic=True)
    embedded = calc.with_options(mu=mu, energy="grand", solver=Embedded(crystal))
    energies, forces = embedded.evaluate_sites(atoms, mask(atoms, 5))
    # 12 points per direction leave 3 meV, 24 leave 0.05 meV.
    expected = calc.with_options(mu=mu, energy="grand", kpts=(32, 32, 32)).evaluate(crystal.unit_cell)
    assert np.abs(forces).max() < 1e-6
    assert energies[5] == pytest.approx(expected.energies[0], abs=2e-4)
