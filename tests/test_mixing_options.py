"""What mixtures share: blending, net forces, separate regions side by side, embedding, buffers."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import units
from ase.io import read
from ase.md.verlet import VelocityVerlet
from helpers import assert_derivative, moved
from mixing_fixtures import (
    TUNGSTEN,
    Faulty,
    FinnisSinclair,
    silicon_cell,
    stillinger_weber,
    tungsten_vacancy,
    vacancy,
)

from ase_qmmm import (
    ChildCalculatorError,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    SiteResult,
    StructureError,
    SubtractiveMixingCalculator,
)
from ase_qmmm.parallel import TaskPool

RANGE = FinnisSinclair.cutoff + 0.1
MIXTURES = [EnergyMixingCalculator, ForceMixingCalculator]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Structures of failed calls are written into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


def pair(qm=None, mm=None):
    return qm or FinnisSinclair(), mm or FinnisSinclair(1.8)


def centres(atoms):
    """Far enough from each other for clusters of their own."""
    return np.array([np.zeros(3), atoms.cell.array.sum(axis=0) / 2])


def two_regions(rattle=0.05):
    atoms = TUNGSTEN.supercell(8, cubic=True)
    atoms.rattle(rattle, seed=1)
    return atoms, Regions.from_distance(atoms, centres(atoms), 2.9, RANGE)


# -- blended force mixing ------------------------------------------------------------------------------------


def test_blended_forces():
    atoms, place = tungsten_vacancy(5, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0 + 2 * RANGE)
    calc = ForceMixingCalculator(*pair(), regions, cluster="open", blend=3.0)
    got = forces(calc, atoms)
    w = calc.weights[:, None]
    assert ((w > 0) & (w < 1)).any()
    expected = w * forces(FinnisSinclair(), atoms) + (1 - w) * forces(FinnisSinclair(1.8), atoms)
    assert np.abs(got - expected).max() < 1e-10


def test_blended_patch(silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [100, 107], r_buffer=2.5, cluster="open", blend=2.5)
    assert np.abs(forces(calc, atoms)).max() < 1e-8


# -- net force and torque ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [0.0, 3.0])
@pytest.mark.parametrize("which", ["all", "interface"])
def test_net_force(which, blend):
    atoms, place = tungsten_vacancy(5, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0 + 2 * RANGE)
    options = {"cluster": "open", "blend": blend}
    plain = forces(ForceMixingCalculator(*pair(), regions, **options), atoms)
    assert np.abs(plain.sum(axis=0)).max() > 1e-3
    got = forces(ForceMixingCalculator(*pair(), regions, remove_net_force=which, **options), atoms)
    assert np.abs(got.sum(axis=0)).max() < 1e-11
    changed = np.abs(got - plain).max(axis=1) > 1e-12
    assert changed.all() if which == "all" else 0 < changed.sum() < 0.5 * len(atoms)


@pytest.mark.parametrize("which", [False, "all", "interface"])
@pytest.mark.parametrize("wire", [False, True])
def test_net_torque(which, wire):
    atoms, place = tungsten_vacancy(5, rattle=0.05)
    atoms.pbc = (False, False, wire)
    regions = Regions.from_distance(atoms, place, 3.0, 2 * RANGE, r_frozen=10.0)
    options = {"cluster": "open", "remove_net_force": which, "remove_net_torque": True}
    got = forces(ForceMixingCalculator(*pair(), regions, **options), atoms)
    free = ~regions.frozen
    torque = np.cross(atoms.positions, got)[free]
    # About another point than the origin, unless the net force is gone.
    shift = 0 if which else np.cross(atoms.positions[free].mean(axis=0), got[free].sum(axis=0))
    rest = np.abs(torque.sum(axis=0) - shift)
    assert (rest[2:] if wire else rest).max() < 1e-9
    assert not got[regions.frozen].any()


def test_no_torque_in_a_crystal():
    atoms, place = tungsten_vacancy(3)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    calc = ForceMixingCalculator(*pair(), regions, remove_net_torque=True)
    with pytest.raises(StructureError, match="no torque is defined with 3 periodic directions"):
        forces(calc, atoms)
    with pytest.raises(ValueError, match="remove_net_force: got 'some'"):
        ForceMixingCalculator(*pair(), regions, remove_net_force="some")


@pytest.mark.parametrize("which", ["all", "interface"])
def test_dynamics_keeps_its_momentum(which):
    atoms, place = tungsten_vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    atoms.calc = ForceMixingCalculator(*pair(), regions, cluster="open", remove_net_force=which)
    momenta = np.random.default_rng(3).normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    with VelocityVerlet(atoms, timestep=2.0 * units.fs) as dynamics:
        dynamics.run(10)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9


# -- separate regions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [*MIXTURES, SubtractiveMixingCalculator])
@pytest.mark.parametrize("workers", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_two_regions_side_by_side(mixture, workers):
    atoms, regions = two_regions()
    alone = mixture(*pair(), regions, cluster="open")
    expected = forces(alone, atoms)
    assert len(alone.clusters) == 2
    executor = ThreadPoolExecutor(2) if workers == "threads" else 2
    with TaskPool(executor) as pool:
        calc = mixture(*pair(), regions, cluster="open", pool=pool)
        assert np.array_equal(forces(calc, atoms), expected)
        assert calc.get_property("energy", atoms) == alone.get_property("energy", atoms)
        children = calc.cluster_calculators
        assert len({id(child) for child in children}) == len(children)
    if workers == "threads":
        executor.shutdown()


def test_each_region_on_its_own():
    """Two regions in one mixture are two mixtures added."""
    atoms, regions = two_regions()
    options = {"cluster": "open", "crystal": TUNGSTEN}
    both = forces(EnergyMixingCalculator(*pair(), regions, **options), atoms)
    plain = forces(FinnisSinclair(1.8), atoms)
    total = plain.copy()
    for centre in centres(atoms):
        one = Regions.from_distance(atoms, centre, 2.9, RANGE)
        total += forces(EnergyMixingCalculator(*pair(), one, **options), atoms) - plain
    assert np.abs(both - total).max() < 1e-10


# -- children that fail --------------------------------------------------------------------------------------


class FaultySites(FinnisSinclair):
    """Misbehaves once, at call number `on_call`."""

    def __init__(self, fault, on_call=0, strength=1.896373):
        super().__init__(strength)
        self.fault, self.on_call, self.calls = fault, on_call, 0

    def evaluate(self, atoms, weights=None):
        self.calls += 1
        result = super().evaluate(atoms, weights)
        if self.calls != self.on_call:
            return result
        if self.fault == "raise":
            raise RuntimeError("the disk is on fire")
        if self.fault == "nothing":
            return None
        energies, f = result.energies.copy(), result.forces.copy()
        if self.fault == "nan":
            f[3, 1] = np.nan
        if self.fault == "shape":
            energies = energies[:-1]
        if self.fault == "no site energies":
            energies = None
        return SiteResult(result.energy, energies, f, result.virial)


FAULTS = {
    "raise": "the disk is on fire",
    "nan": "forces not finite on atom 3",
    "shape": r"energies of shape \(\d+,\), expected \(\d+,\)",
    "no site energies": "energies None",
    "nothing": "evaluate returned NoneType, expected SiteResult",
}


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("which", ["qm", "mm"])
@pytest.mark.parametrize("fault", FAULTS)
def test_failing_child(which, fault, pooled, folder):
    atoms, regions = two_regions()
    children = dict(zip(("qm", "mm"), pair(), strict=True))
    children[which] = FaultySites(fault, strength=children[which].strength)
    pool = TaskPool(ThreadPoolExecutor(1)) if pooled else None
    calc = EnergyMixingCalculator(
        children["qm"], children["mm"], regions, cluster="open", crystal=TUNGSTEN, pool=pool
    )
    expected = forces(EnergyMixingCalculator(*pair(), regions, cluster="open", crystal=TUNGSTEN), atoms)
    before = atoms.copy()
    before.rattle(0.01, seed=9)
    forces(calc, before)
    bad = calc.cluster_calculators[-1] if which == "qm" else calc.mm
    bad.on_call = bad.calls + 1
    with pytest.raises(
        ChildCalculatorError, match=rf"^{which} calculator \(FaultySites.*{FAULTS[fault]}"
    ) as e:
        forces(calc, atoms)
    assert calc.results == {}
    path = folder / f"failed-{which}.extxyz"
    assert str(path) in str(e.value)
    assert path.exists()
    assert np.abs(forces(calc, atoms) - expected).max() < 1e-10
    if pool is not None:
        pool.executor.shutdown()


def test_structure_of_a_failed_call(tmp_path):
    atoms, place = vacancy(3, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    where = tmp_path / "broken" / "here"
    calc = ForceMixingCalculator(Faulty("raise"), stillinger_weber(), regions, cluster="open", folder=where)
    with pytest.raises(ChildCalculatorError, match="its structure is in .*broken/here/failed-qm.extxyz"):
        forces(calc, atoms)
    written = read(where / "failed-qm.extxyz")
    cluster = calc.clusters[0].atoms
    assert np.allclose(written.positions, cluster.positions, atol=1e-7)
    assert list(where.iterdir()) == [where / "failed-qm.extxyz"]
    # A folder that cannot be written does not hide the error.
    (tmp_path / "file").write_text("")
    calc = ForceMixingCalculator(
        Faulty("raise"), stillinger_weber(), regions, cluster="open", folder=tmp_path / "file"
    )
    with pytest.raises(ChildCalculatorError, match="disk is on fire; its structure could not be written"):
        forces(calc, atoms)


# -- embedded clusters ---------------------------------------------------------------------------------------


def test_embedded_needs_its_range(silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [100], r_buffer=4.0, cluster="embedded")
    with pytest.raises(
        ValueError, match="at least the range of the Hamiltonian, .*; got 4.00 Å: use r_buffer"
    ):
        forces(calc, atoms)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", MIXTURES)
def test_embedded_patch(mixture, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    calc = mixture(silicon_qm, silicon_mm, [100, 107], r_buffer=6.7, cluster="embedded")
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    assert [c.kind for c in calc.clusters] == ["embedded"]


@pytest.mark.slow
def test_embedded_gradient(rng, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    atoms.rattle(0.03, seed=5)
    calc = EnergyMixingCalculator(silicon_qm, silicon_mm, [100, 107], r_buffer=6.7, cluster="embedded")
    direction = rng.uniform(-1, 1, (len(atoms), 3))
    slope = -(forces(calc, atoms) * direction).sum()
    steps = np.array([0.04, 0.01, 2e-3, 5e-4])
    assert_derivative(
        lambda h: calc.get_property("energy", moved(atoms, direction, h)), slope, noise=1e-9, steps=steps
    )


# -- buffers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", MIXTURES)
def test_buffer_error(mixture, caplog):
    atoms, place = tungsten_vacancy(6, rattle=0.05)
    thin = mixture(*pair(), Regions.from_distance(atoms, place, 3.0, 2.9), cluster="open")
    wide = mixture(*pair(), Regions.from_distance(atoms, place, 3.0, 2 * RANGE), cluster="open")
    with caplog.at_level(logging.WARNING, logger="ase_qmmm.mixing.buffers"):
        assert wide.buffer_error(atoms).largest < 1e-10
    assert not [r for r in caplog.records if r.name.endswith("buffers")]
    with caplog.at_level(logging.WARNING, logger="ase_qmmm.mixing.buffers"):
        found = thin.buffer_error(atoms, fmax=0.01, wider=2 * RANGE)
    exact = np.linalg.norm(forces(thin, atoms) - forces(wide, atoms), axis=1)
    assert found.largest == pytest.approx(exact.max(), rel=1e-6)
    assert found.atom == np.argmax(exact)
    assert not found.acceptable
    assert "too large" in caplog.text
    assert "a buffer wider by 9.00 Å" in str(found)
    assert thin.buffer_error(atoms, fmax=100 * found.largest, wider=2 * RANGE).acceptable


@pytest.mark.slow
def test_buffer_error_against_embedding(silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    atoms.rattle(0.03, seed=5)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [100, 107], r_buffer=6.7, cluster="open")
    found = calc.buffer_error(atoms)
    assert found.against == "the same cluster embedded"
    assert 1e-4 < found.largest < 0.2
