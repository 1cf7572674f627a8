"""YACEPotential: linear potentials in files of ML-PACE as calculators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from ..errors import StructureError, check_positive, checked_keywords
from .evaluation import ProjectionCalculator
from .functions import BasisFunction, Channels
from .harmonics import harmonics_tables
from .plan import join_plans
from .tables import MINIMUM_DISTANCE, SPACING, RadialTable
from .verlet import VerletList
from .yace_file import YACEFile, read_yace_file
from .yace_plan import plan_of_terms
from .yace_radial import bond_functions, core_function

__all__ = ["YACEPotential"]


class YACEPotential(ProjectionCalculator):
    """Linear atomic cluster expansion in a ``.yace`` file of ML-PACE [1]_, as LAMMPS's pair_style pace reads.

    ``E_i = E0 + w sum_f ctilde_f Re prod_t A_t + sum_j core(r_ij)``, products of rank 1 of the radial basis
    g_k, others of ``R_nl Y_lm``. Radial functions are interpolated by quintic polynomials between nodes
    about 0.01 Å apart. Needs PyYAML (``pip install ase-qmmm[lammps]``).

    Parameters
    ----------
    path : str or Path
    skin : float
        Å. Neighbour lists reach further by this, and are kept while no atom has moved by half of it.

    Attributes
    ----------
    elements : tuple of str
    reference_energies : dict of str to float
        E0 (eV).
    minimum_distance : float
        Å. Closer pairs are refused: 0.1 Å, or where cores might reach the density cutoff of the file, beyond
        which its energy is not linear.

    Raises
    ------
    FileNotFoundError
        No such file.
    ImportError
        PyYAML is missing.
    ValueError
        Not a file of this kind, damaged, or of a potential that is not supported: more than one density, an
        embedding function that is not linear, radial functions other than ChebExpCos, ChebPow and
        SBessel, an inner cutoff of kind zbl. The message names the place.
    StructureError
        On evaluation: two atoms too close, or an element that the file lacks.

    References
    ----------
    .. [1] Y. Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021).
    """

    @checked_keywords
    def __init__(self, path: str | Path, *, skin: float = 0.5) -> None:
        super().__init__()
        self.skin = check_positive("skin", skin, "Å", zero=True)
        file = read_yace_file(path)
        self.elements = file.elements
        self.cutoff = max(b.cutoff for b in file.bonds.values())
        self.minimum_distance = max(MINIMUM_DISTANCE, _least_distance(file))
        self.reference_energies = dict(zip(file.elements, file.reference_energies.tolist(), strict=True))
        self._references = file.reference_energies
        self._index = np.full(len(chemical_symbols), -1, dtype=np.int64)
        self._index[[atomic_numbers[e] for e in file.elements]] = np.arange(len(file.elements))
        self._neighbours = VerletList(self.cutoff, self.skin)
        self._n_functions = sum(len(f) for f in file.functions)
        several = [[t for t in f if len(t.l) > 1] for f in file.functions]
        labels = [BasisFunction("cluster", z, t.elements, t.n, t.l) for z, f in enumerate(several) for t in f]
        channels = Channels(len(file.elements), labels)
        first = np.cumsum(channels.n_max) - channels.n_max
        self._arrays = (
            *_radial_table(file, channels),
            channels.starts,
            first.astype(np.int64),
            channels.n_max,
            harmonics_tables(channels.l_max),
            *join_plans([plan_of_terms(f, channels) for f in several]),
        )

    def __repr__(self) -> str:
        return (
            f"YACEPotential({', '.join(self.elements)}: {self._n_functions} functions, cutoff "
            f"{self.cutoff:g} Å)"
        )

    def _species(self, atoms: Atoms) -> np.ndarray:
        numbers = np.asarray(atoms.numbers)
        known = (numbers >= 0) & (numbers < len(self._index))
        index: np.ndarray = np.where(known, self._index[np.where(known, numbers, 0)], -1)
        if (index < 0).any():
            first = int(np.argmax(index < 0))
            unknown = sorted({chemical_symbols[n] for n in numbers[index < 0]})
            raise StructureError(
                f"atoms: no parameters for {', '.join(unknown)} (first: atom {first}); this potential is for "
                f"other elements, it knows {', '.join(self.elements)}"
            )
        return index


def _radial_table(file: YACEFile, channels: Channels) -> RadialTable:
    """R_nl of every l, then twice the sum of rank 1 and core: half of a pair potential belongs to a site."""
    n_z, cutoff = len(file.elements), max(b.cutoff for b in file.bonds.values())
    # A node at the cutoff, where functions may end with a slope, and zeros beyond.
    inside = int(np.ceil(cutoff / SPACING))
    spacing = cutoff / inside
    r = np.maximum(spacing * np.arange(inside + 3), MINIMUM_DISTANCE / 2)
    r[inside] = cutoff
    scale = np.array([1.0, spacing, spacing**2])[:, None]
    nodes = np.zeros((n_z * n_z, len(r), 3, int(channels.n_max.sum()) + 1))
    for (a, b), bond in file.bonds.items():
        basis, core = bond_functions(bond, r, 2)
        first = 0
        for l, count in enumerate(channels.n_max):
            of_l = bond.coefficients[:count, l] if l < bond.coefficients.shape[1] else np.zeros((0, 1))
            for n, row in enumerate(of_l):
                nodes[a * n_z + b, :, :, first + n] = (scale * np.tensordot(basis, row, axes=(1, 0))).T
            first += int(count)
        rank_one = np.zeros(basis.shape[1])
        for term in file.functions[a]:
            if term.elements == (b,):
                rank_one[term.n[0] - 1] += term.coefficients.sum()
        pair = np.tensordot(basis, rank_one, axes=(1, 0)) + core
        nodes[a * n_z + b, :, :, -1] = (2.0 * scale * pair).T
    return RadialTable(nodes, np.arange(n_z * n_z, dtype=np.int64).reshape(n_z, n_z), spacing)


def _least_distance(file: YACEFile) -> float:
    """Distance (Å) between atoms from which on no sum of cores reaches the density cutoff.

    Balls of half the distance d do not overlap: at most ``(2 r / d + 1)^3`` of them have centres within r.
    """
    least = 0.0
    for z, limit in enumerate(file.core_limits):
        bonds = [b for (a, _), b in file.bonds.items() if a == z and b.core > 0]
        if not bonds:
            continue
        cutoff = max(b.cutoff for b in bonds)
        for d in np.geomspace(MINIMUM_DISTANCE, cutoff, 100):
            r = np.geomspace(d, cutoff, 200)
            core = np.max([np.where(r < b.cutoff, core_function(b, r), 0.0) for b in bonds], axis=0)
            within = np.concatenate([[1.0], (2 * r[1:] / d + 1) ** 3])
            if core[:-1] @ np.diff(within) <= limit:
                break
        least = max(least, float(d))
    return least
