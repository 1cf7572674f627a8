"""Silicon of Kwon et al.: published clusters, the crystal, both ends of its functions."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa
from helpers import assert_derivative, moved, random_strain, strained

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.contract import check_calculator
from ase_qmmm.errors import StructureError
from ase_qmmm.tightbinding import KwonModel

FORMS = ("smooth", "original")


def isosceles(side, apex):
    half = np.radians(apex / 2)
    return [[0, 0, 0], *([side * np.cos(half), sign * side * np.sin(half), 0] for sign in (1, -1))]


def bipyramid(edge, height):
    ring = [[np.cos(t), np.sin(t), 0] for t in 2 * np.pi * np.arange(3) / 3]
    return [*(edge / 3**0.5 * np.array(ring)), [0, 0, height / 2], [0, 0, -height / 2]]


RHOMBUS_LONG = np.sqrt(2.48**2 - 1.28**2)
# Cohesive energies (eV per atom) and geometries (Å) of tests/data/SOURCES.md, two decimals.
CLUSTERS = {
    "dimer": (1.60, [[0, 0, 0], [2.45, 0, 0]]),
    "triangle": (2.51, isosceles(2.42, 74.7)),
    "chain": (2.21, [[-2.41, 0, 0], [0, 0, 0], [2.41, 0, 0]]),
    "rhombus": (3.21, [[RHOMBUS_LONG, 0, 0], [-RHOMBUS_LONG, 0, 0], [0, 1.28, 0], [0, -1.28, 0]]),
    "tetrahedron": (
        2.83,
        2.59 / 8**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
    ),
    "bipyramid": (3.18, bipyramid(3.59, 2.74)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_published_clusters(cluster, form):
    cohesive, positions = CLUSTERS[cluster]
    atoms = Atoms(f"Si{len(positions)}", positions)
    calc = TightBinding("kwon-Si", kT=0.002, energy="band", cutoff_form=form)
    assert -calc.evaluate(atoms).energy / len(atoms) == pytest.approx(cohesive, abs=0.0055)


def test_crystal():
    """Lattice constant, cohesive energy, elastic constants; see docs/models.md for what is published."""
    crystal = Crystal.relaxed(bulk("Si"), TightBinding("kwon-Si"))
    a = crystal.lattice[0].max() * 2
    # Bond 2.3580 Å; the published functions are scaled to a bond of r0 = 2.360352 Å.
    assert a == pytest.approx(5.4455, abs=2e-4)
    assert a * 3**0.5 / 4 == pytest.approx(2.360352, rel=2e-3)
    calc = TightBinding("kwon-Si", kpts={"size": (6, 6, 6)})
    atoms = crystal.unit_cell
    assert calc.evaluate(atoms).energy / 2 == pytest.approx(-4.657, abs=2e-3)

    def stress(strain):
        return calc.get_property("stress", strained(atoms, strain)) / GPa

    stretch, h = np.diag([1.0, 0, 0]), 1e-3
    slope = (stress(h * stretch) - stress(-h * stretch)) / (2 * h)
    assert slope[:2] == pytest.approx([146.8, 55.1], abs=0.5)
    assert (slope[0] + 2 * slope[1]) / 3 == pytest.approx(85.6, abs=0.5)


def test_both_forms_agree_in_the_crystal():
    atoms = bulk("Si", a=5.4455)
    forms = [TightBinding("kwon-Si", cutoff_form=f, kpts=(2, 2, 2)).evaluate(atoms) for f in FORMS]
    # Third neighbours (4.52 Å) are out of range, second ones (3.85 Å) before the switch.
    assert forms[0].energy == pytest.approx(forms[1].energy, abs=1e-12)
    assert np.abs(forms[0].virial - forms[1].virial).max() < 1e-11


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_functions(form, order):
    model = KwonModel(form)
    # Away from where a derivative jumps, within steps that stay in one piece.
    r = np.array([2.0, 2.36, 3.1, 3.8, 4.08])
    steps = np.array([0.02, 5e-3, 2e-3, 5e-4])

    def functions(h, k):
        parts = [f[:, k].ravel() for pair in model.two_centre(0, 0, r + h, order).values() for f in pair]
        return np.concatenate([*parts, model.repulsive_density(0, 0, r + h, order)[k]])

    scale = np.abs(functions(0.0, order - 1)).max()
    assert_derivative(
        lambda h: functions(h, order - 1), functions(0.0, order), noise=1e-13 * scale, steps=steps
    )
    x = np.array([0.0, 3.0, 12.0])
    assert_derivative(
        lambda h: model.repulsive_energy(0, 0, np.abs(x + h), order)[order - 1][1:],
        model.repulsive_energy(0, 0, x, order)[order][1:],
    )


@pytest.mark.parametrize(("form", "continuous"), [("smooth", 4), ("original", 1)])
def test_ends_are_as_smooth_as_stated(form, continuous):
    model = KwonModel(form)
    for end in (3.9, 4.0, 4.16):
        pair = np.array([end - 1e-8, end + 1e-8])
        for hopping, _ in model.two_centre(0, 0, pair, continuous).values():
            jump = np.abs(hopping[..., 1] - hopping[..., 0])
            # The fifth derivative, which jumps, is some 1e5 eV/Å^5 in the narrow switch.
            assert (jump <= 1e-2 * (1 + np.abs(hopping[..., 0]))).all()
    assert not model.two_centre(0, 0, np.array([4.16, 5.0]), 4)[1, 1][0].any()


@pytest.mark.parametrize("options", [{}, {"mu": -1.0}, {"mu": -1.0, "energy": "band"}], ids=str)
def test_weighted_gradient_and_response(options, rng):
    atoms = bulk("Si", a=5.4)
    atoms.rattle(0.1, seed=2)
    calc = TightBinding("kwon-Si", kpts=(2, 2, 2), **options)
    w = np.array([0.4, -0.9])
    here = calc.evaluate(atoms, w)
    u, strain = rng.uniform(-1, 1, (2, 3)), random_strain(rng)
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), w).energy, -(here.forces * u).sum())
    assert_derivative(
        lambda h: calc.evaluate(strained(atoms, strain, h), w).energy, -(here.virial * strain).sum()
    )
    if "mu" in options:
        change = calc.force_response(atoms, u[None])[0]
        assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h)).forces, change)


@pytest.mark.parametrize("form", FORMS)
def test_contract(form):
    atoms = Atoms("Si5", bulk("Si", cubic=True).positions[:5])
    atoms.rattle(0.1, seed=1)
    check_calculator(TightBinding("kwon-Si", cutoff_form=form), atoms)


def test_compressed_beyond_the_published_range():
    """The quartic of the repulsion turns over; a plausible wrong number would follow."""
    with pytest.raises(StructureError, match="compressed to x = .* holds up to 35"):
        TightBinding("kwon-Si").evaluate(bulk("Si", "fcc", a=2.6))
    with pytest.raises(StructureError, match="kwon-Si needs at least 1.45 Å"):
        TightBinding("kwon-Si").evaluate(Atoms("Si2", [[0, 0, 0], [0, 0, 1.2]]))


def test_unknown_cutoff():
    with pytest.raises(ValueError, match="cutoff_form: got 'sharp'"):
        KwonModel("sharp")
    calc = TightBinding(KwonModel("original"))
    assert calc.cutoff_form == "original"
    assert calc.with_options(kT=0.2).model is calc.model
    assert calc.with_options(cutoff_form="smooth").model.cutoff_form == "smooth"
