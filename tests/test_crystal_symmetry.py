"""Space groups against spglib, and numbers of independent coefficients against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, graphene

from ase_qmmm import Crystal
from ase_qmmm.symmetry import count_force_constants, count_site_coefficients, space_group, stencil_permutation

CELLS = {
    "Si": bulk("Si"),
    "W": bulk("W"),
    "Mg": bulk("Mg"),
    "NaCl": bulk("NaCl", "rocksalt", a=5.6),
    "ZnS": bulk("ZnS", "zincblende", a=5.4),
    "Si cubic": bulk("Si", cubic=True),
    "In": bulk("In"),
}


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
@pytest.mark.parametrize("name", CELLS)
def test_order_of_the_group(name):
    spglib = pytest.importorskip("spglib")
    cell = CELLS[name]
    found = spglib.get_symmetry((cell.cell.array, cell.get_scaled_positions(), cell.numbers))
    assert len(space_group(Crystal(cell))) == len(found["rotations"])


def sheet():
    cell = graphene("C2", a=2.46)
    cell.pbc = (True, True, False)
    cell.cell[2] = 0
    return cell


@pytest.mark.parametrize("cell", [*CELLS.values(), sheet()], ids=[*CELLS, "graphene"])
def test_operations_map_stencils(cell):
    crystal = Crystal(cell)
    radius = 1.7 * crystal.nearest_neighbour_distance
    for op in space_group(crystal):
        assert np.abs(op.rotation @ op.rotation.T - np.eye(3)).max() < 1e-10
        for basis in range(crystal.n_basis):
            permutation = stencil_permutation(crystal, op, basis, radius)
            images = crystal.stencil(int(op.sites[basis]), radius)[permutation]
            assert np.abs(images - crystal.stencil(basis, radius) @ op.rotation.T).max() < 1e-6


def test_graphene_has_24_operations():
    assert len(space_group(Crystal(sheet()))) == 24


def test_symmetry_does_not_depend_on_the_orientation():
    cell = bulk("Si")
    cell.rotate(37, (1, 2, 3), rotate_cell=True)
    assert len(space_group(Crystal(cell))) == 48


@pytest.mark.parametrize(("shift", "order"), [(5e-6, 48), (1e-3, 4)])
def test_tolerance_is_a_distance(shift, order):
    """A lattice vector that is longer by less than 1e-5 Å, as after a relaxation, costs no symmetry."""
    cell = bulk("Si")
    vectors = cell.cell.array.copy()
    vectors[0] *= 1 + shift / np.linalg.norm(vectors[0])
    cell.set_cell(vectors, scale_atoms=True)
    assert len(space_group(Crystal(cell))) == order


def test_orders_that_do_not_exist():
    crystal = Crystal(bulk("Si"))
    with pytest.raises(ValueError, match="order: got 1, expected an integer of 2 or more"):
        count_force_constants(crystal, 2.5, 1)
    with pytest.raises(ValueError, match="order: got 0, expected an integer of 1 or more"):
        count_site_coefficients(crystal, 2.5, 0)


def test_force_constants_of_silicon():
    """Two, four and four parameters of the first three shells; 37 with the third order within 4 Å."""
    crystal = Crystal(bulk("Si"))
    assert [count_force_constants(crystal, r, 2) for r in (2.5, 4.0, 5.0)] == [2, 6, 10]
    assert count_force_constants(crystal, 4.0, 3) == 27


def test_site_coefficients_of_a_simple_lattice():
    """One bond length derivative per shell; as many quadratic forms as invariants of the cubic group."""
    crystal = Crystal(bulk("Po", "sc", a=3.0))
    assert count_site_coefficients(crystal, 3.1, 1) == 1
    # x^2 and y^2 on one neighbour; opposite and adjacent neighbours: xx, yy; xx, xy, yx (equal), yy, zz
    assert count_site_coefficients(crystal, 3.1, 2) == brute_force(crystal, 3.1)


def brute_force(crystal, radius):
    """Rank of the projector on symmetric tensors of order two that the site group leaves alone."""
    size = len(crystal.stencil(0, radius)) * 3
    projector = np.zeros((size**2, size**2))
    group = space_group(crystal)
    for op in group:
        permutation = np.eye(size // 3)[:, stencil_permutation(crystal, op, 0, radius)].T
        d = np.kron(permutation.T, op.rotation)
        projector += np.kron(d, d) / len(group)
    swap = np.eye(size**2).reshape(size, size, size, size).transpose(1, 0, 2, 3).reshape(size**2, size**2)
    return int(round(np.trace(projector @ (np.eye(size**2) + swap) / 2)))
