"""What first users ran into: mistakes that must be named, and small cells that must be right."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from ase_qmmm import Crystal, ForceMixingCalculator, Regions, StructureError, TaylorForces
from ase_qmmm.relaxation import RelaxationFiles, relax_defect


def test_class_instead_of_calculator_is_named():
    with pytest.raises(TypeError, match="qm: got the class EMT, expected an ASE calculator"):
        ForceMixingCalculator(EMT, EMT(), [0], r_buffer=3.0)


def test_atoms_instead_of_crystal_are_named():
    with pytest.raises(TypeError, match="crystal: got Atoms, expected Crystal"):
        TaylorForces.from_calculator(EMT(), bulk("Cu"))


def test_error_of_the_calculator_is_not_taken_for_a_missing_stress():
    with pytest.raises(NotImplementedError, match="No EMT-potential for Si"):
        Crystal.relaxed(bulk("Si"), EMT())


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (
            bulk("Cu", cubic=True) * (2, 2, 2),
            "nrl-Si-sp has no parameters for Cu; try --qm nrl-CuAu-spd or nrl-Cu-spd",
        ),
        (bulk("Ge", cubic=True), "nrl-Si-sp has no parameters for Ge$"),
    ],
)
def test_relaxation_names_a_model_that_knows_the_element(atoms, message, tmp_path):
    with pytest.raises(StructureError, match=message):
        relax_defect(atoms, RelaxationFiles(tmp_path / "x"), report=lambda text: None)
    assert not list(tmp_path.iterdir())


def test_relaxation_refuses_a_structure_without_periodicity(tmp_path):
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.pbc = False
    with pytest.raises(StructureError, match="no periodic direction"):
        relax_defect(atoms, RelaxationFiles(tmp_path / "x"), report=lambda text: None)


def test_energy_of_the_perfect_crystal_does_not_depend_on_carving(silicon_qm, silicon_crystal, silicon_mm):
    """Both sides are in one ensemble also where the quantum call takes the whole system."""
    atoms = silicon_crystal.supercell(3, cubic=True)
    energies = {}
    for kind, r_buffer in (("whole", 12.0), ("open", 5.0)):
        regions = Regions.from_distance(atoms, 0, r_qm=4.0, r_buffer=r_buffer)
        way = "auto" if kind == "whole" else kind
        calc = ForceMixingCalculator(silicon_qm, silicon_mm, regions, cluster=way, energy="sites")
        calc.prepare(atoms)
        assert [c.kind for c in calc.clusters] == [kind]
        energies[kind] = calc.get_potential_energy(atoms) / len(atoms)
    # A surface changes site energies by meV at this buffer; another ensemble would by 2 eV per atom here.
    assert energies["whole"] == pytest.approx(energies["open"], abs=0.05)


def test_small_cells_take_the_whole_system_rather_than_a_poor_cluster(
    silicon_qm, silicon_crystal, silicon_mm
):
    atoms = silicon_crystal.supercell(2, cubic=True)
    centre = atoms.positions[0].copy()
    del atoms[0]
    regions = Regions.from_distance(atoms, centre, r_qm=4.0, r_buffer=2.0)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, regions)
    forces = calc.get_forces(atoms)
    assert [c.kind for c in calc.clusters] == ["whole"]
    exact = calc.cluster_calculators[0].evaluate(atoms).forces
    assert np.abs(forces - exact)[calc.regions.qm].max() < 1e-10
