"""Connected sets of atoms; carving tests them on crystals."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_qmmm.components import connected_sets


def test_more_members_than_pairs_of_32_bits():
    """A ring of 50 000 atoms across a boundary: its pairs are numbered up to 2.5e9."""
    n, bond = 50_000, 2.3
    x = bond * ((np.arange(n) + n // 2) % n)
    ring = Atoms(
        np.full(n, "Si"), np.column_stack([x, 0 * x, 0 * x]), cell=[bond * n, 0, 0], pbc=(True, False, False)
    )
    ((members, shifts, wrapped),) = connected_sets(ring, np.arange(n))
    assert np.array_equal(members, np.arange(n))
    assert wrapped.tolist() == [True, False, False]
    # Unwrapped they are one piece, but for one bond that is cut.
    places = np.sort(ring.positions[:, 0] + shifts[:, 0] * bond * n)
    assert np.abs(np.diff(places) - bond).max() < 1e-6
