"""Convergence studies: errors of a cheap case, resumed runs, slopes of made-up data, bad input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from ase_qmmm.errors import NumericsError
from ase_qmmm.parallel import TaskError
from ase_qmmm.preconditioning import ForceConstantPrecon, PreconditionedLBFGS
from ase_qmmm.studies import ConvergenceStudy, Scheme, convergence_study
from ase_qmmm.studies.convergence import COLUMNS


@pytest.fixture(scope="module")
def case(copper_crystal, copper_mm):
    """A copper vacancy whose quantum model is EMT, matched by its own force constants."""
    atoms = copper_crystal.supercell(4, cubic=True)
    centre = atoms.positions[100].copy()
    del atoms[100]
    return atoms, EMT(), {"force mixing": Scheme(copper_mm)}, centre


def study(case, radii=(3.0, 5.3), **options):
    atoms, qm, schemes, centre = case
    settings = {"centre": centre, "r_buffer": 7.0, "fmax": 1e-4} | options
    return convergence_study(atoms, qm, schemes, radii, **settings)


@pytest.fixture(scope="module")
def copper_crystal():
    from ase.build import bulk

    from ase_qmmm import Crystal

    return Crystal.relaxed(bulk("Cu"), EMT())


@pytest.fixture(scope="module")
def copper_mm(copper_crystal):
    from ase_qmmm import TaylorForces

    return TaylorForces.from_calculator(EMT(), copper_crystal, cutoff=6.0)


def test_error_falls_and_runs_resume(case, tmp_path, monkeypatch):
    found = study(case, folder=tmp_path)
    assert found.table["error"][0] > 1.5 * found.table["error"][1] > 0.0
    assert found.table["n_qm"].tolist() == [12, 54]
    assert 0.0 < found.norm < 2.0 and found.norm > found.table["error"].max()
    assert "force mixing" in str(found)
    assert np.isnan(found.table["energy_error"]).all()  # force mixing has no energy
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "force-mixing-3.extxyz",
        "force-mixing-5.3.extxyz",
        "reference.extxyz",
    ]
    # One file is cut: that relaxation alone is done again.
    cut = tmp_path / "force-mixing-3.extxyz"
    cut.write_bytes(cut.read_bytes()[:2000])
    before = (tmp_path / "reference.extxyz").stat().st_mtime_ns
    again = study(case, folder=tmp_path)
    assert (tmp_path / "reference.extxyz").stat().st_mtime_ns == before
    for name in ("error", "largest", "steps", "n_qm"):
        assert np.allclose(again.table[name], found.table[name], rtol=1e-12)
    # Files hold all digits of the positions, not the eight of extended XYZ.
    for key, atoms in found.relaxed.items():
        assert np.allclose(again.relaxed[key].positions, atoms.positions, rtol=0, atol=1e-14)
    # Given the reference, nothing else needs the quantum model.
    other = study(case, radii=[5.3], reference=found.reference)
    assert np.isclose(other.table["error"][0], found.table["error"][1], rtol=1e-6, atol=1e-7)
    other.write_csv(tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().startswith("scheme,r_qm,")
    found.plot(tmp_path / "plot.png", {"-4.5": -4.5})
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_start_at_the_reference(case, tmp_path):
    """The same geometries and energies in fewer steps, also where the scheme has an energy."""
    first = study(case, radii=[3.0])
    near = study(case, radii=[3.0], start="reference", folder=tmp_path / "near")
    path = tmp_path / "near" / "force-mixing-3.extxyz"
    before = path.stat().st_mtime_ns
    again = study(case, radii=[3.0], start="reference", folder=tmp_path / "near")
    assert path.stat().st_mtime_ns == before and again.table["error"] == pytest.approx(near.table["error"])
    assert np.allclose(near.table["error"], first.table["error"], rtol=0.01)
    assert np.isclose(near.norm, first.norm, rtol=1e-6)
    assert (near.table["steps"] < first.table["steps"]).all()
    given = study(case, radii=[3.0], start="reference", reference=first.reference, folder=tmp_path)
    assert np.allclose(given.table["error"], near.table["error"], rtol=0, atol=1e-5)
    assert not (tmp_path / "reference.extxyz").exists()
    # The quantum model itself as a scheme with an energy: nothing moves, and the energy released is the same.
    atoms, qm, _, centre = case
    same = {"itself": Scheme(EMT(), lambda qm, mm, regions: EMT())}
    exact = study((atoms, qm, same, centre), radii=[3.0], start="reference")
    assert exact.table["steps"][0] == 0
    assert abs(exact.table["energy_error"][0]) < 1e-9


def test_other_settings_are_another_study(case, tmp_path):
    first = study(case, radii=[3.0], folder=tmp_path, fmax=1e-2)
    second = study(case, radii=[3.0], folder=tmp_path, fmax=1e-3)
    assert second.table["steps"][0] > first.table["steps"][0]


def test_other_options_are_another_study(case, tmp_path):
    atoms, qm, schemes, centre = case
    mm = schemes["force mixing"].mm
    blended = {"force mixing": Scheme(mm, options={"blend": 4.0})}
    first = study(case, radii=[3.0], folder=tmp_path)
    second = study((atoms, qm, blended, centre), radii=[3.0], folder=tmp_path)
    assert abs(second.table["error"][0] - first.table["error"][0]) > 1e-3 * first.table["error"][0]


def test_start_from_the_reference(case, tmp_path, copper_mm):
    """The same answer in fewer steps; energies are counted from the predictor all the same."""
    atoms, qm, schemes, centre = case
    both = (atoms, qm, schemes | {"mm": Scheme(copper_mm, lambda qm, mm, regions: qm)}, centre)
    options = {"radii": [3.0], "fmax": 1e-5}
    first = study(both, **options)
    second = study(both, start="reference", folder=tmp_path, **options)
    assert np.isclose(second.table["error"][0], first.table["error"][0], rtol=1e-3)
    assert second.table["steps"].tolist()[1] == 0 < first.table["steps"][1]
    assert np.isclose(second.table["energy_error"][1], 0.0, atol=1e-7)
    # Resumed, and with the reference given.
    for given in (None, second.reference):
        third = study(both, start="reference", folder=tmp_path, reference=given, **options)
        assert np.array_equal(third.table["seconds"], second.table["seconds"])


def test_own_optimizer(case, copper_mm):
    own = partial(PreconditionedLBFGS, precon=ForceConstantPrecon(copper_mm.force_constants))
    first, second = study(case), study(case, optimizer=own)
    assert np.allclose(second.table["error"], first.table["error"], rtol=0.02)


def test_frozen_atoms_stay(case):
    atoms, qm, schemes, centre = case
    fixed = np.linalg.norm(atoms.positions - centre, axis=1) > 6.5
    held = atoms.copy()
    held.set_constraint(FixAtoms(mask=fixed))
    found = study((held, qm, schemes, centre), radii=[3.0])
    relaxed = found.relaxed["force mixing", 3.0]
    assert np.array_equal(relaxed.positions[fixed], atoms.positions[fixed])
    assert np.abs(relaxed.positions - atoms.positions).max() > 0.01


def test_slope_and_its_error(rng):
    radii = np.array([4.0, 5.0, 6.0, 8.0, 10.0])
    rows = [("a", r, 1, 2.0 * r**-3.0, 0.0, -0.1 * r**-4.0, 1, 0.0) for r in radii]
    found = ConvergenceStudy(np.array(rows, dtype=COLUMNS), 1.0, None, {})
    assert np.allclose(found.slope("a"), (-3.0, 0.0), atol=1e-10)
    assert np.isclose(found.slope("a", "energy_error", r_min=5.0)[0], -4.0)
    found.table["error"] *= np.exp(rng.normal(size=5) * 0.1)
    slope, error = found.slope("a")
    assert 0.02 < error < 0.3 and abs(slope + 3.0) < 4 * error
    with pytest.raises(ValueError, match="2 radii"):
        found.slope("a", r_min=7.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radii": []}, ValueError, "radii"),
        ({"start": "middle"}, ValueError, "start"),
        ({"radii": [-1.0]}, ValueError, "radii"),
        ({"optimizer": "newton"}, ValueError, "optimizer"),
        ({"fmax": 0.0}, ValueError, "fmax"),
        ({"cente": 3}, TypeError, "centre"),
    ],
)
def test_refused(case, change, error, message):
    with pytest.raises(error, match=message):
        study(case, **change)


def test_not_converged_is_named(case):
    with pytest.raises(TaskError, match="not converged in 1 steps") as failure:
        study(case, radii=[3.0], steps=1)
    assert isinstance(failure.value.__cause__, NumericsError)


def test_builders_mark_the_far_field(case):
    atoms, qm, schemes, centre = case
    marked = atoms.copy()
    marked.set_array("frozen", np.linalg.norm(atoms.positions - centre, axis=1) > 6.5)
    found = study((marked, qm, schemes, centre), radii=[3.0])
    fixed = marked.arrays["frozen"]
    assert np.array_equal(found.relaxed["force mixing", 3.0].positions[fixed], atoms.positions[fixed])
    assert np.array_equal(found.reference.positions[fixed], atoms.positions[fixed])


@pytest.mark.parametrize("radius", [9.0, 17.5])
def test_column_of_vacancies(radius):
    """Clusters that a thin periodic axis spreads over many cells: the load of their surface is that of the
    crystal without the vacancy, and the first forces are those of the quantum model."""
    from ase.build import bulk

    from ase_qmmm import EAM, Crystal, ForceMixingCalculator, Regions, TaylorForces
    from ase_qmmm.defects import vacancy

    qm = EAM("W-zhou04")
    crystal = Crystal(bulk("W", a=3.1648494))
    atoms = vacancy(crystal, (24, 24, 1))
    mm = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=8.0)
    regions = Regions.from_distance(atoms, atoms.info["core"], radius, 2 * qm.cutoff)
    mixture = ForceMixingCalculator(qm, mm, regions, cluster="open")
    error = np.abs(mixture.get_forces(atoms) - qm.evaluate(atoms).forces)[regions.qm]
    assert error.max() < 1e-6  # eV/Å
