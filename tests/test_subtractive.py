"""SubtractiveMixingCalculator: its definition, its gradient, and hydrogen on cut bonds."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.data import covalent_radii
from helpers import assert_derivative, moved
from mixing_fixtures import (
    SILICON,
    TUNGSTEN,
    FinnisSinclair,
    Springs,
    kumagai,
    silicon_cell,
    stillinger_weber,
    tungsten_vacancy,
    vacancy,
)

from ase_qmmm import Regions, SubtractiveMixingCalculator, check_calculator


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


def silicon():
    atoms, place = vacancy(4, rattle=0.05)
    return atoms, Regions.from_distance(atoms, place, 3.0, 3.0)


def copper():
    """Part of a copper crystal, of which bonds are cut, with models that know hydrogen."""
    atoms = bulk("Cu", cubic=True) * 3
    atoms.rattle(0.05, seed=1)
    regions = Regions.from_distance(atoms, 20, 2.8, 0.1)
    return atoms, regions, EMT(), LennardJones(sigma=1.5, epsilon=0.05, rc=4.0, smooth=True)


def test_definition():
    atoms, regions = silicon()
    calc = SubtractiveMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    energy, f = calc.get_property("energy", atoms), forces(calc, atoms)
    (cluster,) = calc.clusters
    mm = stillinger_weber()
    expected = mm.get_property("energy", atoms) + kumagai().get_property("energy", cluster.atoms)
    expected -= stillinger_weber().get_property("energy", cluster.atoms)
    assert energy == pytest.approx(expected, abs=1e-9)
    wanted = mm.get_property("forces", atoms).copy()
    wanted[cluster.index] += kumagai().get_property("forces", cluster.atoms)
    wanted[cluster.index] -= stillinger_weber().get_property("forces", cluster.atoms)
    assert np.abs(f - wanted).max() < 1e-10


def test_equal_models_are_the_plain_model():
    atoms, regions = silicon()
    calc = SubtractiveMixingCalculator(kumagai(), kumagai(), regions, cluster="open")
    assert np.abs(forces(calc, atoms) - kumagai().get_property("forces", atoms)).max() < 1e-10


def test_all_qm_is_pure_qm():
    atoms, _ = vacancy(2, rattle=0.05)
    calc = SubtractiveMixingCalculator(kumagai(), Springs(), slice(None))
    assert np.array_equal(forces(calc, atoms), kumagai().get_property("forces", atoms))
    assert calc.get_property("energy", atoms) == kumagai().get_property("energy", atoms)


@pytest.mark.parametrize("kind", ["open", "periodic"])
def test_forces_are_the_gradient(kind, rng):
    atoms, place = vacancy(5, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 4.2, 0.0 if kind == "periodic" else 3.0)
    calc = SubtractiveMixingCalculator(kumagai(), stillinger_weber(), regions, cluster=kind, crystal=SILICON)
    direction = rng.uniform(-1, 1, (len(atoms), 3))
    slope = -(forces(calc, atoms) * direction).sum()
    assert [c.kind for c in calc.clusters] == [kind]
    assert_derivative(
        lambda h: calc.get_property("energy", moved(atoms, direction, h)),
        slope,
        noise=1e-9,
        steps=np.array([0.04, 0.01, 2e-3, 5e-4]),
    )


@pytest.mark.parametrize("kind", ["open", "auto"])
def test_contract(kind):
    """With stress: site models have one for open clusters, too."""
    atoms = TUNGSTEN.supercell(3, cubic=True)
    atoms.rattle(0.05, seed=2)
    regions = Regions.from_distance(atoms, 7, 2.9, 1.0)
    calc = SubtractiveMixingCalculator(FinnisSinclair(), FinnisSinclair(1.8), regions, cluster=kind)
    check_calculator(calc, atoms, skip=("permutation", "supercell"))


def test_properties_that_are_not_there():
    atoms, regions = silicon()
    calc = SubtractiveMixingCalculator(kumagai(), Springs(), regions, cluster="open")
    for name in ("stress", "free_energy"):
        with pytest.raises(PropertyNotImplementedError, match=name):
            calc.get_property(name, atoms)


# -- link atoms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passivate", [True, "qm"])
def test_link_atoms_gradient(passivate, rng):
    atoms, regions, qm, mm = copper()
    calc = SubtractiveMixingCalculator(qm, mm, regions, cluster="open", passivate=passivate)
    f = forces(calc, atoms)
    plain = forces(SubtractiveMixingCalculator(qm, mm, regions, cluster="open"), atoms)
    assert np.abs(f - plain).max() > 1e-2
    # Forces of the link atoms go to atoms of the cluster and to those outside.
    (links,) = calc._links
    outside = np.setdiff1d(links.partner, calc.clusters[0].index)
    assert len(outside)
    for mask in (np.isin(np.arange(len(atoms)), outside), regions.qm | regions.buffer):
        direction = rng.uniform(-1, 1, f.shape) * mask[:, None]
        assert_derivative(
            lambda h, u=direction: calc.get_property("energy", moved(atoms, u, h)),
            -(f * direction).sum(),
            noise=1e-9,
            steps=np.array([0.04, 0.01, 2e-3, 5e-4]),
        )
    assert np.abs(f.sum(axis=0)).max() < 1e-10


def test_where_link_atoms_are():
    atoms, regions, qm, mm = copper()
    # A lattice translation of an atom outside moves no link atom.
    calc = SubtractiveMixingCalculator(qm, mm, regions, cluster="open", passivate=True)
    expected = forces(calc, atoms)
    (links,), (cluster,) = calc._links, calc.clusters
    capped = links.added(cluster.update(atoms), atoms)
    m = len(cluster.index)
    assert (capped.numbers[m:] == 1).all()
    lengths = np.linalg.norm(capped.positions[m:] - capped.positions[links.owner], axis=1)
    scale = (covalent_radii[29] + covalent_radii[1]) / (2 * covalent_radii[29])
    bonds = [
        atoms.get_distance(int(cluster.index[o]), int(p), mic=True)
        for o, p in zip(links.owner, links.partner, strict=True)
    ]
    assert np.allclose(lengths, scale * np.array(bonds), rtol=0, atol=1e-10)
    atoms.positions[links.partner[0]] += atoms.cell[0]
    assert np.abs(forces(calc, atoms) - expected).max() < 1e-10


def test_a_box_has_no_cut_bonds():
    atoms = silicon_cell(5)
    atoms.rattle(0.03, seed=1)
    regions = Regions.from_distance(atoms, atoms.positions[300] + 0.1, 4.2, 0.0)
    options = {"cluster": "periodic", "crystal": SILICON}
    capped = SubtractiveMixingCalculator(kumagai(), stillinger_weber(), regions, passivate=True, **options)
    plain = SubtractiveMixingCalculator(kumagai(), stillinger_weber(), regions, **options)
    assert np.array_equal(forces(capped, atoms), forces(plain, atoms))


BAD_ARGUMENTS = {
    "passivate": ({"passivate": "Cl"}, ValueError, "passivate: got 'Cl'"),
    "embedded": ({"cluster": "embedded"}, ValueError, "use EnergyMixingCalculator"),
    "keyword": ({"pasivate": True}, TypeError, "did you mean 'passivate'"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name):
    options, error, text = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=text):
        SubtractiveMixingCalculator(kumagai(), stillinger_weber(), [0], r_buffer=3.0, **options)


def test_frozen_atoms_carry_no_force():
    atoms, place = tungsten_vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 2.0, r_frozen=6.0)
    calc = SubtractiveMixingCalculator(FinnisSinclair(), FinnisSinclair(1.8), regions)
    assert not forces(calc, atoms)[regions.frozen].any()
