"""Straight dislocations: geometry, forces of the unrelaxed predictor, stencils across the cut, detection."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa
from defect_fixtures import decay, planar_radius, residual, silicon, tungsten
from matscipy.dislocation import BCCScrew111Dislocation
from matscipy.elasticity import cubic_to_Voigt_6x6

from ase_qmmm import Crystal, Regions, TaylorForces
from ase_qmmm.defects import (
    DislocationPredictor,
    SlipCompatiblePredictor,
    dislocation_dipole,
    dislocation_quadrupole,
    edge_dislocation,
    mixed_dislocation,
    plot_differential_displacement,
    screw_dislocation,
)
from ase_qmmm.defects.core_plots import differential_displacements
from ase_qmmm.errors import MatchError, StructureError

NIAL = Crystal(bulk("NiAl", "cesiumchloride", a=2.832))
# GPa: B2 NiAl of Purja Pun and Mishin (2009), Philos. Mag. 89, 3245.
NIAL_CONSTANTS = cubic_to_Voigt_6x6(190.9, 142.9, 121.5) * GPa
HALF = (0.5, 0.5, 0.5)


def build(name, **options):
    """A dislocation by name, with its crystal."""
    if name.startswith("Si"):
        _, crystal, constants, internal = silicon()
        burgers, plane = ((1, 0, 0), (0, 1, 1)) if name == "Si edge" else ((0.5, 0.5, 0), (0, 0, 1))
        options.setdefault("internal", internal)
        return edge_dislocation(
            crystal, burgers, plane=plane, elastic_constants=constants, **options
        ), crystal
    if name == "NiAl screw":
        return screw_dislocation(NIAL, (1, 0, 0), elastic_constants=NIAL_CONSTANTS, **options), NIAL
    _, crystal, constants = tungsten()
    options["elastic_constants"] = constants
    if name == "W 100 edge":
        return edge_dislocation(crystal, (1, 0, 0), plane=(0, 0, 1), **options), crystal
    if name == "W edge":
        return edge_dislocation(crystal, HALF, **options), crystal
    if name == "W screw":
        return screw_dislocation(crystal, HALF, **options), crystal
    return mixed_dislocation(crystal, HALF, (1, 1, -1), **options), crystal


NAMES = ["W 100 edge", "W edge", "W screw", "W mixed", "Si edge", "Si Lomer", "NiAl screw"]


@pytest.mark.parametrize("name", NAMES)
def test_stencils_cross_the_cut(name):
    """Outside the core every free atom has its full stencil; displacement differences fall as 1/r."""
    atoms, crystal = build(name, radius=28.0, frozen_width=9.0)
    radius, cutoff = planar_radius(atoms), 5.5
    match = crystal.match(atoms, cutoff)
    b = np.linalg.norm(atoms.info["burgers"])
    free = ~atoms.arrays["frozen"]
    outside = free & (radius > cutoff + 1.5 * b)
    assert (match.basis[outside] >= 0).all()
    assert not match.missing[outside].any()
    g = np.linalg.norm(match.displacements(atoms.positions), axis=2).max(axis=1)
    # |rho| |grad u|, with |grad u| about b / (2 pi r) and the internal shift; a bond over the cut that is
    # not slipped would add a part of b.
    assert (g[outside] * radius[outside]).max() < 1.1 * b * cutoff
    # m_l(rho) = k means m_k(-rho) = l.
    number = np.arange(len(atoms))[:, None] * np.ones_like(match.neighbours)
    inner = outside & (radius < 20)
    pairs = np.column_stack([number[inner].ravel(), match.neighbours[inner].ravel()])
    pairs = pairs[pairs[:, 1] >= 0].astype(int)
    forward = set(map(tuple, np.column_stack([number.ravel(), match.neighbours.ravel()]).astype(int)))
    assert all((k, i) in forward for i, k in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_detection_finds_the_core(name):
    atoms, crystal = build(name, radius=22.0, frozen_width=9.0)
    regions = Regions.detect(atoms, crystal, r_qm=4.0, r_buffer=3.0)
    b = np.linalg.norm(atoms.info["burgers"])
    assert 4 < regions.qm.sum() < 0.2 * len(atoms)
    distance = np.linalg.norm((atoms.positions - atoms.info["core"])[regions.qm, :2], axis=1)
    assert distance.min() < 3.0
    assert distance.max() < 4.0 + 2.5 * b
    assert np.array_equal(regions.frozen, atoms.arrays["frozen"])
    assert len(regions.constraint().index) == atoms.arrays["frozen"].sum()


def test_matched_again_after_glide():
    """The core one lattice spacing further on: the same atoms, stencils full again, detection moves along."""
    first, crystal = build("W 100 edge", radius=30.0, frozen_width=9.0)
    _, _, constants = tungsten()
    step = 3.1648494
    matches, centres = [], []
    for shift in (0.0, step):
        second = first.copy()
        predictor_core = first.info["core"] + [shift, 0, 0]
        field = SlipCompatiblePredictor(constants, first.info["burgers"], predictor_core)
        second.positions = first.arrays["reference_positions"] + field.displacement(
            first.arrays["reference_positions"]
        )
        match = crystal.match(second, 5.5)
        far = (np.abs(planar_radius(first)) > 14) & ~first.arrays["frozen"]
        assert not match.missing[far].any()
        matches.append(match)
        qm = Regions.detect(second, crystal, r_qm=4.0).qm
        centres.append(second.positions[qm, 0].mean())
    assert centres[1] - centres[0] == pytest.approx(step, abs=0.8)
    # Some pairs across the glide plane have slipped.
    assert not np.array_equal(matches[0].neighbours, matches[1].neighbours)


@pytest.mark.parametrize("name", ["W 100 edge", "W screw", "W mixed"])
def test_residual_of_the_predictor_decays(name):
    """About r^-3: what nonlinear elasticity leaves (QM/MM, part 3, appendix A)."""
    atoms, _ = build(name, radius=56.0, frozen_width=13.0)
    force, radius = residual(atoms, tungsten()[0])
    assert decay(force, radius, 20.0, 56.0) < -2.8


def test_plain_elastic_field_keeps_a_trace():
    """Without the slip map the force on the cut falls as 1/r only."""
    atoms, _ = build("W 100 edge", radius=56.0, frozen_width=13.0)
    field = DislocationPredictor(tungsten()[2], atoms.info["burgers"], atoms.info["core"])
    atoms.positions = atoms.arrays["reference_positions"] + field.displacement(
        atoms.arrays["reference_positions"]
    )
    force, radius = residual(atoms, tungsten()[0])
    assert -1.5 < decay(force, radius, 20.0, 56.0) < -0.7


@pytest.mark.parametrize("name", [pytest.param("Si edge", marks=pytest.mark.slow), "Si Lomer"])
def test_internal_shift_in_silicon(name):
    """Residual r^-1 without the internal displacements, r^-3 with them."""
    calc = silicon()[0]
    plain, _ = build(name, radius=70.0, frozen_width=9.0, internal=None)
    shifted, _ = build(name, radius=70.0, frozen_width=9.0)
    slopes = [decay(*residual(atoms, calc), 30.0, 70.0) for atoms in (plain, shifted)]
    assert -1.3 < slopes[0] < -0.8
    assert slopes[1] < -2.8


@pytest.mark.slow
def test_clean_to_300_angstrom():
    atoms, _ = build("W 100 edge", radius=300.0, frozen_width=13.0)
    force, radius = residual(atoms, tungsten()[0])
    assert decay(force, radius, 25.0, 300.0) < -2.9
    assert force[(radius > 250) & (radius < 300)].max() < 1e-5


def test_screw_in_matscipys_core():
    """The hole chosen by default is that of matscipy's easy core: as far from the three columns around it."""
    atoms, _ = build("W screw", radius=15.0, frozen_width=9.0)
    a = tungsten()[1].cubic_vectors()[0, 0]
    reference = BCCScrew111Dislocation(a, C11=522.5, C12=204.2, C44=160.8, symbol="W")
    unit = reference.unit_cell
    offsets = unit.positions[:, None, :2] + (
        np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ unit.cell.array[:2, :2]
    )
    expected = np.linalg.norm(offsets.reshape(-1, 2) - reference.unit_cell_core_position[:2], axis=1).min()
    assert planar_radius(atoms).min() == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(a * np.sqrt(2) / 3, abs=1e-6)


def test_vitek_map_of_the_easy_core():
    """Around the core three differences of b/3; the loop around it adds up to b."""
    atoms, _ = build("W screw", radius=20.0, frozen_width=9.0)
    i, j, difference = differential_displacements(atoms)
    b = np.linalg.norm(atoms.info["burgers"])
    radius = planar_radius(atoms)
    inner = np.flatnonzero(radius < radius.min() + 0.1)
    assert len(inner) == 3
    around = np.isin(i, inner) & np.isin(j, inner)
    assert np.abs(np.abs(difference[around]) - b / 3).max() < 0.02 * b
    assert around.sum() == 3
    with pytest.raises(ValueError, match="no edge part"):
        differential_displacements(atoms, "edge")
    with pytest.raises(StructureError, match="reference_positions"):
        differential_displacements(bulk("W"))


def test_picture(tmp_path):
    atoms, _ = build("W 100 edge", radius=15.0, frozen_width=9.0)
    figure = plot_differential_displacement(atoms, path=tmp_path / "core.png")
    assert (tmp_path / "core.png").stat().st_size > 5000
    assert "edge" in figure.axes[0].get_title()


def test_force_mixing_names_what_lacks_a_neighbour():
    """Atoms whose stencil meets the core are named, with the radius that would do; outside it agrees."""
    calc, crystal, _ = tungsten()
    mm = TaylorForces.from_calculator(calc, crystal, cutoff=6.0)
    atoms, _ = build("W 100 edge", radius=25.0, frozen_width=9.0)
    free = ~atoms.arrays["frozen"]
    with pytest.raises(MatchError, match="QM atom"):
        mm.evaluate_sites(atoms, free)
    far = free & (planar_radius(atoms) > 14)
    forces = mm.evaluate_sites(atoms, far)[1]
    copy = atoms.copy()
    copy.calc = calc
    assert np.abs(forces - copy.get_forces())[far].max() < 0.03


@pytest.mark.parametrize("kind", ["screw", pytest.param("edge", marks=pytest.mark.slow)])
def test_tilt_removes_the_mean_shear(kind):
    calc, crystal, constants = tungsten()
    options = {"plane": (0, 0, 1), "line": (0, 1, 0)} if kind == "edge" else {}
    burgers = (1, 0, 0) if kind == "edge" else HALF
    shear = {}
    for tilt in (True, False):
        atoms = dislocation_dipole(
            crystal, burgers, elastic_constants=constants, size=(60, 60), tilt=tilt, **options
        )
        atoms.calc = calc
        shear[tilt] = np.abs(atoms.get_stress()[3 if kind == "screw" else 5]) / GPa
        centres = Regions.detect(atoms, crystal, r_qm=4.0)
        assert 20 < centres.qm.sum() < 0.2 * len(atoms)
    assert shear[False] > 2.0
    assert shear[True] < 0.1


def test_quadrupole():
    calc, crystal, constants = tungsten()
    atoms = dislocation_quadrupole(crystal, HALF, elastic_constants=constants, size=(50, 50))
    assert len(atoms.info["cores"]) == 4
    atoms.calc = calc
    assert np.abs(atoms.get_stress()[3:]).max() / GPa < 0.1
    match = crystal.match(atoms, 3.5)
    assert (match.basis >= 0).all()
    copy = atoms.copy()
    copy.info = {}
    regions = Regions.detect(copy, crystal, r_qm=4.0)
    distance = np.linalg.norm(
        (atoms.positions[regions.qm][:, None] - atoms.info["cores"][None])[:, :, :2], axis=2
    )
    assert (np.bincount(distance.argmin(axis=1), minlength=4) > 3).all()


def test_internal_displacements_make_a_strained_crystal_relaxed(rng):
    calc, crystal, _, internal = silicon()
    strain = 0.01 * rng.normal(size=(3, 3))
    gradient = np.eye(3) + strain
    forces = []
    for shift in (np.zeros((2, 3)), internal.shift(np.array([gradient] * 2), np.arange(2))):
        atoms = crystal.unit_cell
        atoms.set_cell(atoms.cell.array @ gradient.T, scale_atoms=True)
        atoms.positions += shift
        atoms.calc = calc
        forces.append(np.abs(atoms.get_forces()).max())
    assert forces[1] < 5e-3 * forces[0]


CONSTANTS = cubic_to_Voigt_6x6(3.26, 1.27, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda w: screw_dislocation(w, (1, 1, 0.5), elastic_constants=CONSTANTS),
            "no vector of the lattice",
        ),
        (lambda w: screw_dislocation(NIAL, HALF, elastic_constants=CONSTANTS), "no vector of the lattice"),
        (lambda w: edge_dislocation(w, (1, 0, 0), plane=(1, 1, 0), elastic_constants=CONSTANTS), "plane"),
        (
            lambda w: mixed_dislocation(w, HALF, (1, 1, 1), elastic_constants=CONSTANTS),
            "use screw_dislocation",
        ),
        (lambda w: edge_dislocation(w, HALF, elastic_constants=CONSTANTS, radius=-1.0), "radius"),
        (lambda w: edge_dislocation(w, HALF, elastic_constants=CONSTANTS, frozen_width=0), "frozen_width"),
        (lambda w: edge_dislocation(w, HALF, elastic_constants=CONSTANTS, core=(0, 0)), "plane of atoms"),
        (lambda w: edge_dislocation(w, HALF, elastic_constants=CONSTANTS, core=(0, 0, 1)), "core"),
        (lambda w: screw_dislocation(w, HALF, elastic_constants=CONSTANTS, n_periods=0), "n_periods"),
        (lambda w: screw_dislocation(w, (0, 0, 0), elastic_constants=CONSTANTS), "burgers"),
        (lambda w: dislocation_dipole(w, HALF, elastic_constants=CONSTANTS, size=(20,)), "size"),
        (lambda w: dislocation_dipole(w, HALF, elastic_constants=CONSTANTS, size=(9, 9)), "closer than"),
        (lambda w: edge_dislocation(w, HALF, elastic_constants=CONSTANTS, raduis=3), "did you mean"),
    ],
)
def test_impossible_requests(make, message):
    crystal = Crystal(bulk("W", a=3.165))
    with pytest.raises((ValueError, TypeError, StructureError), match=message):
        make(crystal)
