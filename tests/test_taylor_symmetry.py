"""Force constants keep the symmetry of their site, exact and after truncation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest


def signed_permutations():
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            yield np.eye(3)[list(order)] * np.array(signs)


@pytest.mark.parametrize("basis", [0, 1])
def test_site_symmetry(silicon_mm, basis):
    """``Phi(Q rho) = Q Phi(rho) Q^T`` for the 24 operations Q of the tetrahedral group of the site."""
    crystal, constants = silicon_mm.crystal, silicon_mm.force_constants
    rho, phi = crystal.stencil(basis, silicon_mm.cutoff), constants.matrices[basis]
    bonds = rho[:4]
    found = 0
    for q in signed_permutations():
        if not all(np.abs(bonds - q @ bond).sum(axis=1).min() < 1e-6 for bond in bonds):
            continue
        found += 1
        image = np.array([np.abs(rho - q @ vector).sum(axis=1).argmin() for vector in rho])
        assert np.abs(rho[image] - rho @ q.T).max() < 1e-6
        # 1e-9 of the largest element: rounding of sums over 250 atoms and 8 k-points.
        assert np.abs(phi[image] - q @ phi @ q.T).max() < 1e-9 * np.abs(phi).max()
    assert found == 24


def test_symmetric_onsite_and_reciprocity(silicon_mm):
    constants = silicon_mm.force_constants
    for basis in range(2):
        onsite = constants.onsite(basis)
        # Of cubic site symmetry: a multiple of the unit matrix.
        assert np.abs(onsite - np.eye(3) * np.trace(onsite) / 3).max() < 1e-9
    # Acoustic branches vanish at q = 0, and the dynamical matrix is Hermitian anywhere.
    assert np.abs(np.linalg.eigvalsh(constants.dynamical_matrix(np.zeros(3)))[:3]).max() < 1e-9
    d = constants.dynamical_matrix(np.array([0.3, -0.2, 0.7]))
    assert np.abs(d - d.conj().T).max() < 1e-12
