"""Burgers circuits, Nye tensor, lines found by OVITO."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from defect_fixtures import silicon, tungsten
from scipy.spatial.transform import Rotation

from ase_qmmm import Crystal
from ase_qmmm.defects import (
    burgers_circuit,
    dislocation_lines,
    dislocation_quadrupole,
    edge_dislocation,
    mixed_dislocation,
    nye_tensor,
    screw_dislocation,
)
from ase_qmmm.errors import StructureError

HALF = (0.5, 0.5, 0.5)


def build(name, radius=25.0):
    if name == "Si edge":
        _, crystal, constants, internal = silicon()
        options = {"elastic_constants": constants, "radius": radius, "internal": internal}
        return edge_dislocation(crystal, (0.5, 0.5, 0), plane=(0, 0, 1), **options), crystal
    _, crystal, constants = tungsten()
    options = {"elastic_constants": constants, "radius": radius}
    if name == "W edge":
        return edge_dislocation(crystal, (1, 0, 0), plane=(0, 0, 1), **options), crystal
    if name == "W mixed":
        return mixed_dislocation(crystal, HALF, (1, 0, 0), **options), crystal
    return screw_dislocation(crystal, HALF, **options), crystal


@pytest.mark.parametrize("name", ["W edge", "W screw", "W mixed", "Si edge"])
def test_circuit_closes_by_the_burgers_vector(name):
    atoms, crystal = build(name)
    atoms.rattle(0.05, seed=1)
    for radius in (9.0, 20.0):
        assert np.allclose(burgers_circuit(atoms, crystal, radius), atoms.info["burgers"], atol=1e-10)
    # Beside the core nothing is enclosed.
    beside = atoms.info["core"] + [0.0, 16.0, 0.0]
    assert np.allclose(burgers_circuit(atoms, crystal, 6.0, centre=beside), 0.0, atol=1e-10)


def test_circuits_in_a_periodic_quadrupole():
    _, crystal, constants = tungsten()
    atoms = dislocation_quadrupole(crystal, HALF, elastic_constants=constants, size=(60, 60))
    found = [burgers_circuit(atoms, crystal, 9.0, centre=core) for core in atoms.info["cores"]]
    b = atoms.info["burgers"]
    assert np.allclose(found, [b, -b, b, -b], atol=1e-10)
    # As far as the elastic constants, from differences, are cubic; the largest element is 0.1 1/Å.
    assert np.allclose(nye_tensor(atoms, crystal).sum(axis=0), 0.0, atol=1e-5)


def test_circuit_through_a_core_is_refused():
    atoms, crystal = build("W mixed")
    with pytest.raises(StructureError, match="disagree"):
        burgers_circuit(atoms, crystal, 4.0)
    with pytest.raises(StructureError, match="no closed circuit"):
        burgers_circuit(atoms, crystal, 200.0)
    del atoms.info["core"]
    with pytest.raises(ValueError, match="centre"):
        burgers_circuit(atoms, crystal, 9.0)


def test_nye_tensor_of_a_screw():
    """The density is at the core and along the line; its sum is the Burgers vector within a few per cent."""
    atoms, crystal = build("W screw")
    alpha = nye_tensor(atoms, crystal)
    radius = np.linalg.norm(atoms.positions[:, :2] - atoms.info["core"][:2], axis=1)
    volume = crystal.unit_cell.get_volume() / crystal.n_basis / atoms.cell[2, 2]
    b = atoms.info["burgers"]
    assert np.allclose(alpha[radius < 20.0, 2].sum(axis=0) * volume, b, atol=0.03 * b[2])
    assert np.abs(alpha[(radius > 8.0) & (radius < 20.0)]).max() < 0.01 * np.abs(alpha).max()


def test_nye_tensor_does_not_see_compatible_deformation():
    """Smooth displacements have no dislocations, but for the lattice parameter over the wavelength."""
    crystal = tungsten()[1]
    atoms = crystal.supercell(8, cubic=True)
    length = atoms.cell[0, 0]
    wave = 2 * np.pi / length
    phase = wave * atoms.positions
    amplitude = 0.02 * length / (2 * np.pi)
    atoms.positions += amplitude * np.column_stack(
        [np.sin(phase[:, 1]), np.cos(phase[:, 2] + phase[:, 0]), np.sin(phase[:, 0] - phase[:, 1])]
    )
    alpha = nye_tensor(atoms, crystal)
    assert np.abs(alpha).max() < 0.02 * 0.02 * wave


def test_rotation_and_translation():
    atoms, crystal = build("W edge", radius=15.0)
    alpha = nye_tensor(atoms, crystal)
    turn = Rotation.from_euler("zyx", [0.3, -0.5, 0.9]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T + 3.0
    turned.cell = atoms.cell.array @ turn.T
    del turned.info["orientation"]
    rotated = nye_tensor(turned, crystal, orientation=turn @ atoms.info["orientation"])
    assert np.allclose(rotated, turn @ alpha @ turn.T, atol=1e-10)
    # Without the orientation it is found.
    assert np.allclose(nye_tensor(turned, crystal), rotated, atol=1e-3)


def test_bad_input():
    atoms, crystal = build("W edge", radius=15.0)
    with pytest.raises(TypeError, match="expected Crystal"):
        nye_tensor(atoms, bulk("W"))
    with pytest.raises(StructureError, match="Cu is not in the crystal"):
        nye_tensor(bulk("Cu"), crystal)
    with pytest.raises(StructureError, match="empty"):
        nye_tensor(Atoms(), crystal)
    with pytest.raises(ValueError, match="orientation"):
        nye_tensor(atoms, crystal, orientation=2 * np.eye(3))
    with pytest.raises(ValueError, match="radius"):
        burgers_circuit(atoms, crystal, -1.0)
    assert np.isnan(nye_tensor(Atoms("W2", [[0, 0, 0], [0, 0, 2.7]]), crystal, orientation=np.eye(3))).all()


def test_lines_without_ovito(monkeypatch):
    for name in ("ovito", "ovito.io", "ovito.io.ase"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"ase-qmmm\[analysis\]"):
        dislocation_lines(bulk("W"), "bcc")
    with pytest.raises(ValueError, match="lattice"):
        dislocation_lines(bulk("W"), "b2")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["W edge", "W screw", "W mixed", "Si edge"])
def test_ovito_finds_the_same_line(name):
    pytest.importorskip("ovito", reason="OVITO is not installed")
    atoms, _ = build(name)
    (line,) = dislocation_lines(atoms, "diamond" if name.startswith("Si") else "bcc")
    sign = np.sign(line.spatial_burgers @ atoms.info["burgers"])
    assert np.allclose(sign * line.spatial_burgers, atoms.info["burgers"], atol=0.02)
    assert abs(line.length - atoms.cell[2, 2]) < 0.05
    assert np.linalg.norm((line.points.mean(axis=0) - atoms.info["core"])[:2]) < 4.0


def test_lattice_of_two_elements():
    crystal = Crystal(bulk("NiAl", "cesiumchloride", a=2.88))
    atoms = crystal.supercell(6)
    assert np.allclose(nye_tensor(atoms, crystal), 0.0, atol=1e-10)
