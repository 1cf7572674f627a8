"""Point defects, loops, cracks, and their energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import FIRE
from ase.units import GPa, J, m
from defect_fixtures import residual, silicon, tungsten
from matscipy.elasticity import cubic_to_Voigt_6x6

from ase_qmmm import Crystal, Regions
from ase_qmmm.defects import (
    crack,
    dislocation_loop,
    divacancy,
    elastic_constants,
    formation_energy,
    griffith_stress_intensity,
    interstitial,
    silicon_diinterstitial,
    surface_energy,
    vacancy,
    vacancy_cluster,
)
from ase_qmmm.defects.loops import _ball
from ase_qmmm.errors import StructureError
from ase_qmmm.neighbours import neighbour_pairs

CRYSTALS = {
    "diamond": Crystal(bulk("Si", a=5.43)),
    "bcc": Crystal(bulk("W", a=3.165)),
    "fcc": Crystal(bulk("Cu", a=3.61)),
    "B2": Crystal(bulk("NiAl", "cesiumchloride", a=2.88)),
    "hcp": Crystal(bulk("Ti", a=2.95, c=4.68)),
}
# Number and distance (in cubic cells) of the nearest atoms of each hole.
HOLES = [
    ("diamond", "tetrahedral", 4, np.sqrt(3) / 4),
    ("diamond", "hexagonal", 6, np.sqrt(11) / 8),
    ("bcc", "tetrahedral", 4, np.sqrt(5) / 4),
    ("bcc", "octahedral", 2, 0.5),
    ("fcc", "tetrahedral", 4, np.sqrt(3) / 4),
    ("fcc", "octahedral", 6, 0.5),
]
CONSTANTS = cubic_to_Voigt_6x6(3.26, 1.27, 1.0)


@pytest.mark.parametrize(("name", "kind", "count", "distance"), HOLES)
@pytest.mark.parametrize("site", [0, 1])
def test_holes(name, kind, count, distance, site):
    crystal = CRYSTALS[name]
    if site >= crystal.n_basis:
        pytest.skip("one basis atom")
    atoms = interstitial(crystal, 3, kind, site=site)
    d = np.sort(atoms.get_distances(-1, np.arange(len(atoms) - 1), mic=True))
    a = crystal.cubic_vectors()[0, 0]
    assert np.abs(d[:count] - distance * a).max() < 1e-6
    assert d[count] > 1.05 * distance * a
    assert np.allclose(atoms.info["core"], atoms.positions[-1])


@pytest.mark.parametrize("name", CRYSTALS)
def test_dumbbell(name):
    crystal = CRYSTALS[name]
    atoms = interstitial(crystal, 4, "split", direction=(1, 1, 0), separation=1.9)
    n = len(atoms) - 1
    mirrored = 2 * atoms.info["core"] - atoms.positions[n]
    assert np.linalg.norm(atoms.positions[:n] - mirrored, axis=1).min() < 1e-9
    assert np.linalg.norm(atoms.positions[n] - mirrored) == pytest.approx(1.9)
    host = int(np.argmin(np.linalg.norm(atoms.positions[:n] - mirrored, axis=1)))
    assert np.allclose(atoms.arrays["reference_positions"][host], atoms.info["core"])


@pytest.mark.parametrize(("name", "row"), [("bcc", (1, 1, 1)), ("fcc", (1, 1, 0))])
def test_crowdion(name, row):
    crystal = CRYSTALS[name]
    atoms = interstitial(crystal, 4, "crowdion")
    d = atoms.get_distances(-1, np.arange(len(atoms) - 1), mic=True, vector=True)
    nearest = d[np.argmin(np.linalg.norm(d, axis=1))]
    assert np.linalg.norm(nearest) == pytest.approx(crystal.nearest_neighbour_distance / 2)
    assert np.linalg.norm(np.cross(nearest, row)) < 1e-9


@pytest.mark.parametrize("name", CRYSTALS)
def test_vacancies(name):
    crystal = CRYSTALS[name]
    size = (4, 4, 3)
    n = len(vacancy(crystal, size)) + 1
    pair, cluster = divacancy(crystal, size), vacancy_cluster(crystal, size, 4)
    assert [len(pair), len(cluster)] == [n - 2, n - 4]
    gap = np.linalg.norm(np.diff(pair.info["vacant_sites"], axis=0))
    assert gap == pytest.approx(crystal.nearest_neighbour_distance, rel=0.02)
    for atoms in (vacancy(crystal, size), pair, cluster):
        middle = atoms.cell.array.sum(axis=0) / 2
        assert np.linalg.norm(atoms.info["core"] - middle) < 6.0
        regions = Regions.detect(atoms, crystal, r_qm=1.05 * crystal.nearest_neighbour_distance)
        assert 3 < regions.qm.sum() < 40


@pytest.mark.parametrize(
    ("name", "kind"), [("diamond", "hexagonal"), ("diamond", "split"), ("bcc", "crowdion"), ("fcc", "split")]
)
def test_detection_of_interstitials(name, kind):
    atoms = interstitial(CRYSTALS[name], 3, kind)
    regions = Regions.detect(atoms, CRYSTALS[name], r_qm=3.0)
    assert regions.qm[-1]
    assert regions.qm.sum() < 40


def test_diinterstitial():
    atoms = silicon_diinterstitial(CRYSTALS["diamond"], 10)
    assert len(atoms) == 8002  # the cell of adaptive QM/MM, section 4.5
    small = silicon_diinterstitial(CRYSTALS["diamond"], 3)
    d = small.get_all_distances(mic=True) + 9 * np.eye(len(small))
    assert d.min() > 1.4
    assert Regions.detect(small, CRYSTALS["diamond"], r_qm=3.0).qm[-2:].all()


def test_vacancy_in_tungsten():
    """3.575270 eV in 431 atoms, from LAMMPS with the same potential."""
    calc, crystal, _ = tungsten()
    atoms = vacancy(crystal, 6)
    assert len(atoms) == 431
    atoms.calc = calc
    with FIRE(atoms, logfile=None) as optimizer:
        optimizer.run(fmax=2e-3)
    assert formation_energy(atoms, crystal) == pytest.approx(3.575270, abs=2e-5)


def test_elastic_constants():
    """C11, C12, C44 in GPa, as tabulated for these potentials (matscipy, LAMMPS)."""
    for constants, expected in ((tungsten()[2], (522.5, 204.2, 160.8)), (silicon()[2], (166.4, 65.3, 77.1))):
        assert np.abs(constants[[0, 0, 3], [0, 1, 3]] / GPa - expected).max() < 0.1
        assert np.abs(constants[:3, 3:]).max() < 1e-6


def test_griffith():
    """gamma(010) = 2.98 J/m^2 and K_G = 1.628 MPa sqrt(m) of the (010)[001] crack, from matscipy."""
    calc, crystal, constants = tungsten()
    energy = surface_energy(calc, crystal, (0, 1, 0))
    assert energy / (J / m**2) == pytest.approx(2.98, abs=0.005)
    k = griffith_stress_intensity(
        crystal, (0, 1, 0), (0, 0, 1), elastic_constants=constants, surface_energy=energy
    )
    assert k == pytest.approx(1.628, abs=1e-3)


def test_formation_energy_of_compounds():
    crystal = Crystal.relaxed(bulk("Cu"), EMT())
    atoms = vacancy(crystal, 2)
    atoms.calc = EMT()
    expected = atoms.get_potential_energy() - 31 * crystal_energy(crystal)
    assert formation_energy(atoms, crystal) == pytest.approx(expected, abs=1e-8)
    perfect = crystal.supercell(2, cubic=True)
    assert formation_energy(atoms, crystal, reference=perfect) == pytest.approx(expected, abs=1e-8)
    atoms.numbers[0] = 28
    with pytest.raises(ValueError, match="chemical_potentials"):
        formation_energy(atoms, crystal, EMT())
    impurity = formation_energy(atoms, crystal, EMT(), chemical_potentials={"Ni": 0.1})
    copy = atoms.copy()
    copy.calc = EMT()
    assert impurity == pytest.approx(
        copy.get_potential_energy() - 30 * crystal_energy(crystal) - 0.1, abs=1e-8
    )
    atoms.pbc = (True, True, False)
    with pytest.raises(StructureError, match="surface"):
        formation_energy(atoms, crystal, EMT())


def crystal_energy(crystal):
    atoms = crystal.unit_cell
    atoms.calc = EMT()
    return atoms.get_potential_energy() / len(atoms)


@pytest.mark.parametrize("kind", ["interstitial", "vacancy"])
def test_loop(kind):
    calc, crystal, constants = tungsten()
    atoms = dislocation_loop(
        crystal, (0.5, 0.5, 0.5), elastic_constants=constants, loop_radius=8.0, radius=17.0, kind=kind
    )
    perfect = len(_ball(crystal, 27.0)[0])
    volume = 6 * np.sqrt(3) / 4 * 64 * np.linalg.norm(atoms.info["burgers"])
    extra = volume / crystal.unit_cell.get_volume() * (1 if kind == "interstitial" else -1)
    assert len(atoms) - perfect == pytest.approx(extra, abs=4)
    regions = Regions.detect(atoms, crystal, r_qm=3.0)
    distance = np.linalg.norm(atoms.positions[regions.qm] - atoms.info["core"], axis=1)
    # No further from the loop than the radius asked for and a lattice constant, the width of its core.
    assert 50 < regions.qm.sum() and distance.max() < 8.0 + 3.0 + crystal.cubic_vectors()[0, 0]
    atoms.calc = calc
    force = np.linalg.norm(atoms.get_forces(), axis=1)
    radius = np.linalg.norm(atoms.arrays["reference_positions"] - atoms.info["core"], axis=1)
    near, far = (radius > 10) & (radius < 12), (radius > 14) & (radius < 17)
    assert neighbour_pairs(atoms, 3.0, "d")[0].min() > 0.55 * crystal.nearest_neighbour_distance
    # Faster than r^-2.5, from an elastic field that is right.
    assert force[far].max() < (11 / 15.5) ** 2.5 * force[near].max()


def loop(crystal, burgers=(1, 0, 0), **options):
    options = {"loop_radius": 8, "radius": 20} | options
    return dislocation_loop(crystal, burgers, elastic_constants=CONSTANTS, **options)


@pytest.mark.parametrize("load", [0.9, 1.0, 1.1])
def test_crack(load):
    """The flanks open and the tip stays shut; the force ahead falls as nonlinear elasticity leaves it."""
    calc, crystal, constants = tungsten()
    atoms = crack(
        crystal,
        (0, 1, 0),
        (0, 0, 1),
        load * 1.628,
        elastic_constants=constants,
        radius=40.0,
        frozen_width=9.0,
    )
    moved = atoms.positions - atoms.info["core"]
    reference = atoms.arrays["reference_positions"] - atoms.info["core"]
    behind = (np.abs(reference[:, 0] + 30) < 3.2) & (np.abs(reference[:, 1]) < 1)
    opening = np.ptp(moved[behind, 1]) - np.ptp(reference[behind, 1])
    ahead = (np.abs(reference[:, 0] - 30) < 3.2) & (np.abs(reference[:, 1]) < 1)
    assert opening > 10 * (np.ptp(moved[ahead, 1]) - np.ptp(reference[ahead, 1]))
    force, radius = residual(atoms, calc)
    bulk_like = reference[:, 0] > 0
    assert force[bulk_like & (radius > 30) & (radius < 40)].max() < 0.02 * load**2
    regions = Regions.detect(atoms, crystal, r_qm=3.5)
    assert np.linalg.norm(moved[regions.qm, :2], axis=1).min() < 3.0
    assert moved[regions.qm, 0].max() < 12.0
    assert not regions.qm[atoms.arrays["frozen"]].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: vacancy(c, 0), "n: got"),
        (lambda c: vacancy(c, 2, site=5), "site"),
        (lambda c: vacancy_cluster(c, 2, 400), "n: got"),
        (lambda c: divacancy(c, 2, shell=0), "shell"),
        (lambda c: interstitial(c, 2, "hexagonal"), "no hexagonal hole"),
        (lambda c: interstitial(c, 2, "tetra"), "kind: got 'tetra'"),
        (lambda c: interstitial(c, 2, "crowdion", direction=(1, 0, 0)), "close-packed row"),
        (lambda c: interstitial(c, 2, "octahedral", direction=(1, 0, 0)), "no meaning"),
        (lambda c: interstitial(c, 2, "position", position=(1, 0)), "position"),
        (lambda c: silicon_diinterstitial(c, 2), "diamond"),
        (
            lambda c: dislocation_loop(c, (1, 0, 0.3), elastic_constants=CONSTANTS, loop_radius=8, radius=20),
            "burgers",
        ),
        (
            lambda c: dislocation_loop(c, (1, 0, 0), elastic_constants=CONSTANTS, loop_radius=8, radius=8),
            "radius",
        ),
        (
            lambda c: dislocation_loop(
                c, (1, 0, 0), elastic_constants=CONSTANTS, loop_radius=8, radius=20, kind="void"
            ),
            "kind",
        ),
        (lambda c: crack(c, (0, 1, 0), (0, 1, 0), 1.0, elastic_constants=CONSTANTS), "line"),
        (lambda c: crack(c, (0, 1, 0), (0, 0, 1), -1.0, elastic_constants=CONSTANTS), "k_i"),
        (lambda c: elastic_constants(EMT(), Crystal(bulk("Cu", a=3.8))), "Crystal.relaxed"),
    ],
)
def test_impossible_requests(make, message):
    with pytest.raises((ValueError, StructureError), match=message):
        make(CRYSTALS["bcc"])
