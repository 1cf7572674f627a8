"""Phonon energies against phonopy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from ase_qmmm import Crystal, TaylorForces
from ase_qmmm.taylor import displacement_derivatives, phonon_band_structure, phonon_energies
from ase_qmmm.taylor.displacements import Supercell
from ase_qmmm.taylor.force_constants import ForceConstants
from ase_qmmm.taylor.phonons import THZ


def stillinger_weber():
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def with_phonopy(crystal, n):
    phonopy = pytest.importorskip("phonopy")
    from phonopy.structure.atoms import PhonopyAtoms

    cell = crystal.unit_cell
    unit = PhonopyAtoms(
        symbols=cell.get_chemical_symbols(),
        cell=cell.cell.array,
        scaled_positions=cell.get_scaled_positions(),
    )
    return phonopy.Phonopy(unit, np.diag([n] * 3), primitive_matrix=np.eye(3))


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_against_phonopy_from_its_own_displacements(rng):
    """Force constants of this model end within 4 Å: both find all of them."""
    calc = stillinger_weber()
    crystal = Crystal.relaxed(bulk("Si"), calc)
    theirs = with_phonopy(crystal, 3)
    theirs.generate_displacements(distance=0.005, is_plusminus=True)
    forces = []
    for s in theirs.supercells_with_displacements:
        atoms = Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True)
        forces.append(calc.get_property("forces", atoms))
    theirs.forces = forces
    theirs.produce_force_constants()
    kpts = rng.uniform(-0.5, 0.5, (6, 3))
    theirs.run_qpoints(kpts)
    own = displacement_derivatives(calc, crystal, 1, 4.0, step=0.005)
    assert phonon_energies(own, kpts) / THZ == pytest.approx(theirs.qpoints.frequencies, abs=1e-3)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
@pytest.mark.parametrize("name", ["hcp", "B2"])
def test_against_phonopy_with_the_same_constants(name, rng):
    """Dynamical matrices at random wave vectors, several basis atoms and elements."""
    cell = bulk("Cu", "hcp", a=2.56, c=4.18) if name == "hcp" else bulk("NiAl", "cesiumchloride", a=2.9)
    crystal = Crystal(cell)
    constants = ForceConstants.from_derivatives(displacement_derivatives(EMT(), crystal, 1, 4.2))
    n = 4
    theirs = with_phonopy(crystal, n)
    positions = theirs.supercell.positions
    box = Supercell(crystal, n, 4.2)
    # Atoms of phonopy's supercell in the order of this one.
    d = (positions[:, None] - box.atoms.positions[None]) @ np.linalg.inv(box.atoms.cell.array)
    order = np.linalg.norm(d - np.rint(d), axis=2).argmin(axis=1)
    array = np.zeros((len(positions), len(positions), 3, 3))
    for i, (basis, cell_of) in enumerate(box.sites):
        array[i, i] = constants.onsite(basis)
        _, others, cells = crystal.stencil_sites(basis, 4.2)
        sites = [(int(b), tuple(map(int, np.array(cell_of) + c))) for b, c in zip(others, cells, strict=True)]
        array[i, box.indices(sites)] = constants.matrices[basis]
    theirs.force_constants = array[np.ix_(order, order)]
    kpts = rng.uniform(-0.5, 0.5, (6, 3))
    theirs.run_qpoints(kpts)
    assert phonon_energies(constants, kpts) / THZ == pytest.approx(theirs.qpoints.frequencies, abs=1e-4)


def test_chain_with_springs():
    """``hbar omega = 2 hbar sqrt(k / m) |sin(q a / 2)|``, and the transverse modes cost nothing."""
    chain = Crystal(Atoms("Ar", cell=[3.0, 0, 0], pbc=[True, False, False]))
    spring = np.zeros((2, 3, 3))
    spring[:, 0, 0] = -0.7
    constants = ForceConstants(chain, 3.1, [spring], np.zeros(1), "springs")
    kpts = np.array([[0.0, 0, 0], [0.2, 0, 0], [0.5, 0, 0]])
    rate = np.sqrt(0.7 * units._e / 1e-20 / (39.948 * units._amu))
    expected = units._hbar / units._e * 2 * rate * np.abs(np.sin(np.pi * kpts[:, 0]))
    found = phonon_energies(constants, kpts)
    assert found[:, 2] == pytest.approx(expected, abs=1e-12)
    assert np.abs(found[:, :2]).max() == 0
    # Four times the mass: half the energy.
    heavy = phonon_energies(constants, kpts, masses=np.array([4 * 39.948]))
    assert heavy[:, 2] == pytest.approx(expected / 2, abs=1e-12)
    unstable = ForceConstants(chain, 3.1, [-spring], np.zeros(1), "springs")
    assert phonon_energies(unstable, kpts)[:, 0] == pytest.approx(-expected, abs=1e-12)


def test_band_structure(copper_mm):
    bands = phonon_band_structure(copper_mm, "GXUGL", npoints=30)
    assert bands.energies.shape == (1, 30, 3)
    assert np.abs(bands.energies[0, 0]).max() < 1e-7
    assert (np.diff(bands.energies[0], axis=1) >= 0).all()
    same = phonon_band_structure(copper_mm.force_constants, bands.path)
    assert np.array_equal(same.energies, bands.energies)


def test_bad_arguments(copper_mm):
    derivatives = displacement_derivatives(EMT(), copper_mm.crystal, 1, 3.0)
    with pytest.raises(ValueError, match="special points are"):
        phonon_band_structure(derivatives, "GQ")
    with pytest.raises(TypeError, match="constants: got str"):
        phonon_band_structure("Cu")
    with pytest.raises(TypeError, match="did you mean 'npoints'"):
        phonon_band_structure(derivatives, npoint=3)
    with pytest.raises(ValueError, match="masses"):
        phonon_energies(derivatives, [[0, 0, 0]], masses=[-1.0])
    with pytest.raises(ValueError, match="kpts: got an array of shape"):
        phonon_energies(derivatives, [0, 0, 0])


def test_derivatives_of_energies_are_refused(copper_mm):
    derivatives = displacement_derivatives(EMT(), copper_mm.crystal, 1, 3.0)
    other = type(derivatives)(
        derivatives.crystal, "energy", derivatives.cutoffs, derivatives.tensors, derivatives.energies, "x"
    )
    with pytest.raises(ValueError, match="got kind 'energy'"):
        phonon_band_structure(other)


def test_taylor_model_has_the_phonons_of_its_derivatives(copper_mm, rng):
    derivatives = displacement_derivatives(EMT(), copper_mm.crystal, 1, copper_mm.cutoff)
    kpts = rng.uniform(-0.5, 0.5, (4, 3))
    assert phonon_energies(copper_mm, kpts) == pytest.approx(phonon_energies(derivatives, kpts), abs=1e-9)
    assert isinstance(copper_mm, TaylorForces)
