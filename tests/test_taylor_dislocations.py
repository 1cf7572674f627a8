"""Taylor models of tungsten around straight dislocations, outside their cores."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import pytest
from defect_fixtures import planar_radius, tungsten

from ase_qmmm import TaylorForces, TaylorPotential
from ase_qmmm.defects import SlipCompatiblePredictor, edge_dislocation, mixed_dislocation, screw_dislocation
from ase_qmmm.defects.dislocation_fields import stiffness_tensor
from ase_qmmm.errors import MatchError

KINDS = {
    "edge": lambda crystal, **kw: edge_dislocation(crystal, (1, 0, 0), plane=(0, 0, 1), **kw),
    "screw": lambda crystal, **kw: screw_dislocation(crystal, (0.5, 0.5, 0.5), plane=(1, -1, 0), **kw),
    "mixed": lambda crystal, **kw: mixed_dislocation(crystal, (0.5, 0.5, 0.5), (1, 1, -1), **kw),
}


@cache
def models():
    """Force constants beyond 7 Å are 1e-4 of the largest."""
    calc, crystal, _ = tungsten()
    return {
        "forces": TaylorForces.from_calculator(calc, crystal, order=1, cutoff=7.0),
        "potential": TaylorPotential.from_calculator(calc, crystal, order=2, cutoff=6.13),
    }


def dislocation(kind):
    calc, crystal, constants = tungsten()
    atoms = KINDS[kind](crystal, elastic_constants=constants, radius=40.0, frozen_width=10.0)
    copy = atoms.copy()
    copy.calc = calc
    return atoms, copy.get_forces()


def scaled_error(mm, atoms, expected, radius):
    """Error of forces times r^3, where sites are outside the core: strain times its gradient falls so."""
    sites = (radius > 12.0) & (radius < 27.0)
    error = np.linalg.norm(mm.evaluate_sites(atoms, sites)[1] - expected, axis=1)
    return np.where(sites, error * radius**3, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["forces", "potential"])
def test_outside_the_core(kind, name):
    """Second order in the strain, all around: nothing is seen of the branch cut."""
    atoms, expected = dislocation(kind)
    radius = planar_radius(atoms)
    error = scaled_error(models()[name], atoms, expected, radius)
    rings = [error[(radius >= r) & (radius < r + 5)].max() for r in (12, 17, 22)]
    assert max(rings[1:]) < 1.2 * rings[0]
    x, y = (atoms.arrays["reference_positions"] - atoms.info["core"])[:, :2].T
    cut = (np.abs(y) < 4.0) & (x > 0)
    assert 0 < error[cut].max() <= error[~cut].max() * 1.01


@pytest.mark.parametrize("kind", KINDS)
def test_glide(kind, caplog):
    """The line moves by one Burgers vector and by four: atoms slip past each other, errors stay."""
    mm = models()["forces"]
    calc, _, constants = tungsten()
    atoms, expected = dislocation(kind)
    radius = planar_radius(atoms)
    before = scaled_error(mm, atoms, expected, radius).max()
    neighbours = mm.match(atoms).neighbours.copy()

    turn = [atoms.info["orientation"]] * 4
    tensor = np.einsum("ia,jb,kc,ld,abcd->ijkl", *turn, stiffness_tensor(constants))
    reference, burgers = atoms.arrays["reference_positions"], atoms.info["burgers"]

    def moved(step):
        core = atoms.info["core"][:2] + [step, 0.0]
        return reference + SlipCompatiblePredictor(tensor, burgers, core).displacement(reference)

    assert np.abs(moved(0.0) - atoms.positions).max() < 1e-9
    start = atoms.info["core"].copy()
    with caplog.at_level(logging.INFO):
        for steps in (1, 4):
            step = steps * np.linalg.norm(burgers)
            atoms.positions = moved(step)
            copy = atoms.copy()
            copy.calc = calc
            copy.info["core"] = start + [step, 0.0, 0.0]
            after = scaled_error(mm, atoms, copy.get_forces(), planar_radius(copy)).max()
            assert after < 1.5 * before
    assert "matched anew" in caplog.text
    assert not np.array_equal(mm.match(atoms).neighbours, neighbours)


@pytest.mark.parametrize("kind", ["edge", "mixed"])
def test_what_the_error_asks_for_is_enough(kind):
    mm = models()["forces"]
    atoms, _ = dislocation(kind)
    radius = planar_radius(atoms)
    # Here the atoms at the defect are all that must be quantum atoms: no radius beyond them.
    with pytest.raises(MatchError, match=r"worst: atom \d+ at .* among the \d+ atoms at the defect"):
        mm.evaluate_sites(atoms, radius < 27.0)
    core = np.flatnonzero(mm.match(atoms).defect() & (radius < 27.0))
    distance = np.min([atoms.get_distances(int(k), range(len(atoms)), mic=True) for k in core], axis=0)
    outside = (radius < 27.0) & (distance > 0.01)
    assert np.isfinite(mm.evaluate_sites(atoms, outside)[1]).all()
    assert outside.sum() > 100
