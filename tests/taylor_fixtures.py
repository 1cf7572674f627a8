"""A classical model of finite range, whose derivatives of any order are known: E_l = F(n_l)."""

from __future__ import annotations

from math import factorial

import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_qmmm import Crystal, SiteCalculator, SiteResult
from ase_qmmm.taylor import CrystalDerivatives
from ase_qmmm.taylor.lattice_potential import lattice_forces
from ase_qmmm.taylor.polynomials import multiplicity, pack


def triangular():
    return Crystal(Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]], pbc=(1, 1, 0)))


CRYSTALS = {
    "triangular": (triangular, 2.6),
    "diamond": (lambda: Crystal(bulk("Si", a=5.43)), 2.5),
    "B2": (lambda: Crystal(bulk("NiAl", "cesiumchloride", a=2.9)), 3.0),
    "hcp": (lambda: Crystal(bulk("Ti", "hcp", a=2.95, c=4.68)), 3.1),
}


def partitions(items):
    """All partitions of a list into blocks."""
    if not items:
        yield []
        return
    first, *rest = items
    for smaller in partitions(rest):
        yield [[first], *smaller]
        for k, block in enumerate(smaller):
            yield [*smaller[:k], [first, *block], *smaller[k + 1 :]]


def gaussian_derivatives(x, b, order):
    """Tensors (3,) * order of exp(-b x.x) at one point."""
    if order == 0:
        return np.exp(-b * x @ x)
    total = np.zeros((3,) * order)
    for partition in partitions(list(range(order))):
        if max(map(len, partition)) > 2:
            continue  # derivatives of b x.x end at the second
        factors = [-2 * b * x if len(block) == 1 else -2 * b * np.eye(3) for block in partition]
        letters = ["".join("abcd"[k] for k in block) for block in partition]
        total += np.einsum(",".join(letters) + "->" + "abcd"[:order], *factors)
    return np.exp(-b * x @ x) * total


class DensityModel(SiteCalculator):
    """``E_l = A log(1 + n_l)``, n_l a sum of Gaussians over the stencil, wider for some species.

    Neighbours are those of the match with the crystal: the range ends without a step.
    """

    def __init__(self, crystal, cutoff):
        super().__init__()
        self.crystal, self.cutoff = crystal, cutoff
        self.amplitude = 5.0

    def width(self, numbers):
        return 0.15 + 0.002 * np.asarray(numbers)

    def function(self, n, k):
        """k-th derivative of ``A log(1 + n)``."""
        if k == 0:
            return self.amplitude * np.log1p(n)
        return self.amplitude * (-1) ** (k - 1) * factorial(k - 1) / (1 + n) ** k

    def evaluate(self, atoms, weights=None):
        w = np.ones(len(atoms)) if weights is None else np.asarray(weights)
        match = self.crystal.match(atoms, self.cutoff)
        x = match.displacements(atoms.positions) + match.vectors
        inside = match.neighbours >= 0
        phi = np.where(inside, np.exp(-self.width(atoms.numbers[match.neighbours]) * (x**2).sum(axis=2)), 0.0)
        n = phi.sum(axis=1)
        energies = self.function(n, 0)
        b = self.width(atoms.numbers[match.neighbours])
        pull = (w * self.function(n, 1))[:, None, None] * (-2 * b * phi)[:, :, None] * x
        forces = pull.sum(axis=1)
        np.add.at(forces, match.neighbours[inside], -pull[inside])
        virial = -np.einsum("nkc,nkd->cd", pull, x)
        return SiteResult(float(w @ energies), energies, forces, virial)

    def _tensor(self, basis, order):
        rho, sites, _ = self.crystal.stencil_sites(basis, self.cutoff)
        widths = self.width(self.crystal.numbers[sites])
        size = len(rho)
        density = []
        for j in range(1, order + 1):
            block = np.zeros((size, 3) * j)
            for k, (x, b) in enumerate(zip(rho, widths, strict=True)):
                index = tuple(axis for _ in range(j) for axis in (k, slice(None)))
                block[index] = gaussian_derivatives(x, b, j)
            density.append(block)
        n = np.exp(-widths * (rho**2).sum(axis=1)).sum()
        out = np.zeros((size, 3) * order)
        for partition in partitions(list(range(order))):
            letters = ["".join("ABCD"[k] + "abcd"[k] for k in block) for block in partition]
            target = "".join("ABCD"[k] + "abcd"[k] for k in range(order))
            factors = [density[len(block) - 1] for block in partition]
            out += self.function(n, len(partition)) * np.einsum(",".join(letters) + "->" + target, *factors)
        return out

    def site_energy_derivatives(self, crystal, order=2, cutoff=5.0):
        tensors = {j: [self._tensor(a, j) for a in range(crystal.n_basis)] for j in range(1, order + 1)}
        cutoffs = dict.fromkeys(tensors, self.cutoff)
        return CrystalDerivatives(crystal, "energy", cutoffs, tensors, self.energies0(), "density model")

    def energies0(self):
        return self.evaluate(self.crystal.unit_cell).energies

    def force_derivatives(self, crystal, order=1, cutoff=5.0):
        """From the site energies around; whether that is right is seen from the forces of displaced atoms."""
        radius, tensors = 2 * self.cutoff, {}
        for j in range(1, order + 1):
            site = [pack(self._tensor(a, j + 1), 0.0)[0] for a in range(crystal.n_basis)]
            tensors[j] = []
            for a, terms in enumerate(lattice_forces(crystal, self.cutoff, site)):
                size = 3 * len(crystal.stencil(a, radius))
                dense = np.zeros((size,) * j + (3,))
                values = terms.coefficients * factorial(j) / multiplicity(terms.tuples)[:, None]
                for p in np.ndindex(*(j,) * j):
                    if len(set(p)) == j:
                        dense[tuple(terms.tuples[:, k] for k in p)] = values
                tensors[j].append(np.moveaxis(dense, -1, 0).reshape(3, *(size // 3, 3) * j))
        cutoffs = dict.fromkeys(tensors, radius)
        return CrystalDerivatives(crystal, "force", cutoffs, tensors, self.energies0(), "density model")


def density_model(name):
    make, cutoff = CRYSTALS[name]
    crystal = make()
    return DensityModel(crystal, cutoff), crystal
