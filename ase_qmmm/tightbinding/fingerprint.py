"""A number that tells one Hamiltonian from another by what its functions return."""

from __future__ import annotations

import hashlib

import numpy as np

from .hamiltonian import Hamiltonian

__all__ = ["model_fingerprint"]

# Points on each function of distance, and at these multiples of their densities of one neighbour on each
# on-site term: no neighbour, one, and as many as there are in a crystal.
_DISTANCES = 200
_NEIGHBOURS = (0.0, 1.0, 4.0, 12.0)


def model_fingerprint(model: Hamiltonian) -> str:
    """SHA-256 of the values of hopping, overlap, density and on-site terms of each spin and pair of species.

    The repulsion is left out. Models of one name whose parameters differ have different fingerprints.
    """
    digest = hashlib.sha256(
        repr((model.name, model.symbols, model.shells, model.cutoff, model.n_spin, model.orthogonal)).encode()
    )
    species = range(len(model.symbols))
    r = np.linspace(model.minimum_distance, model.cutoff, _DISTANCES)
    # Functions of a user's own may overflow at distances that no structure has.
    with np.errstate(all="ignore"):
        for spin in range(model.n_spin):
            for a in species:
                for b in species:
                    functions = model.two_centre(a, b, r, 0, spin)
                    density = model.density(a, b, r, 0, spin)
                    rho = np.multiply.outer(_NEIGHBOURS, density[0]).ravel()
                    arrays = [x for key in sorted(functions) for x in functions[key]]
                    for x in (*arrays, density, model.onsite(a, b, rho, 0, spin)):
                        digest.update(np.ascontiguousarray(x, dtype=float).tobytes())
    return digest.hexdigest()
