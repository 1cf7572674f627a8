"""ACEBasis: the functions of a linear atomic cluster expansion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from ..crystal import Crystal
from ..errors import StructureError, check_positive, check_structure, checked_keywords
from .derivatives import MAX_MEMORY, CauchyBornRows, CrystalRows, cauchy_born_rows, crystal_rows
from .functions import BasisFunction, Channels, list_functions, list_monomials
from .harmonics import harmonics_tables
from .plan import Plan, PlanTemplate, join_plans
from .radial import Radial
from .rows import ACERows, RowLayout, configuration_rows
from .tables import MINIMUM_DISTANCE, RadialTable, grid, make_table

__all__ = ["ACEBasis"]


class ACEBasis:
    """Linear atomic cluster expansion: invariant functions of the surroundings of an atom [1]_ [2]_.

    With radial functions R_n and real spherical harmonics Y_lm (``Y_00 = 1``) the density projections of atom
    i of element z0 are

        ``A_(z n l m) = sum_(j of element z) R_n(r_ij) Y_lm(r_ij / |r_ij|)``,

    and the functions are ``B = sum_m C_m prod_t A_(z_t n_t l_t m_t)`` with couplings C that make them
    invariant under rotations, reflections and exchange of atoms. Of those with the same ``(z, n, l)`` only
    linearly independent ones are kept, orthonormal in C. All with ``sum_t (n_t + 1.5 l_t) <= degree`` (n from
    1) and at most `order` factors belong to the basis, for each element of the centre atom.

    Parameters
    ----------
    elements : str or sequence of str
        Chemical symbols.
    order : int
        Correlation order, 1 to 4: neighbours that one term correlates (body order less one).
    degree : float or sequence of float
        Largest total degree, one for all correlation orders or one for each, from the first: pairs of
        neighbours are resolved finely at little cost by ``(20, 20, 8)``.
    cutoff : float
        Å.
    pair_basis : bool
        Add pair functions ``1/2 sum_j phi_n(r_ij)``, n = 1 .. degree (of the first order), for each pair of
        elements, which rise steeply at short distances.
    r0 : float or dict of str to float, optional
        Distance (Å) where radial resolution is highest; default: the nearest-neighbour distances of the
        elements' crystals in ASE's data (mean over the two elements of a pair).
    inner_cutoff : float, optional
        Å. Cluster functions vanish below; default half of r0.
    p, q : float
        Exponents of the Agnesi transform of distances.
    envelope : int
        Power k of the envelope ``(1 - x^2)^k`` of the cluster functions; k - 1 derivatives vanish at the
        cutoffs.
    pair_exponent : float
        Pair functions go as ``r^-pair_exponent`` at short distances.
    core : {"zbl", None}
        Universal repulsion of nuclei at short distances, without a coefficient: alone below the inner cutoff,
        switched off at 0.8 r0, so that atoms never fall into each other whatever the coefficients are.
        None: no core, and pair functions that reach to zero distance.

    Attributes
    ----------
    functions : tuple of BasisFunction
        Label of every column, cluster functions by centre element first, then pair functions.
    parameters : dict
        All arguments, as plain numbers; ``ACEBasis(**parameters)`` makes the same basis.

    Raises
    ------
    ValueError, TypeError
        An argument out of range, an unknown element or keyword.

    References
    ----------
    .. [1] R. Drautz, Phys. Rev. B 99, 014104 (2019).
    .. [2] G. Dusson et al., J. Comput. Phys. 454, 110946 (2022); H. Chen, C. Ortner and Y. Wang, Multiscale
       Model. Simul. (2022), QM/MM methods for crystalline defects, part 3, appendix E.

    Examples
    --------
    >>> from ase_qmmm import ACEBasis
    >>> len(ACEBasis("W", order=3, degree=8, cutoff=5.5, pair_basis=False))
    54
    """

    @checked_keywords
    def __init__(
        self,
        elements: str | Iterable[str],
        order: int,
        degree: float | Sequence[float],
        cutoff: float,
        pair_basis: bool = True,
        *,
        r0: float | Mapping[str, float] | None = None,
        inner_cutoff: float | None = None,
        p: float = 2.0,
        q: float = 4.0,
        envelope: int = 3,
        pair_exponent: float = 2.0,
        core: str | None = "zbl",
    ) -> None:
        self.elements = _checked_elements(elements)
        if isinstance(order, bool) or order not in (1, 2, 3, 4):
            raise ValueError(f"order: got {order!r}, expected 1, 2, 3 or 4")
        self.order = int(order)
        self.degree = _checked_degree(degree, self.order)
        self.cutoff = check_positive("cutoff", cutoff, "Å")
        self.pair_basis = bool(pair_basis)
        options: dict[str, Any] = {
            "r0": dict(r0) if isinstance(r0, Mapping) else r0,
            "inner_cutoff": inner_cutoff,
            "p": p,
            "q": q,
            "envelope": envelope,
            "pair_exponent": pair_exponent,
            "core": core,
        }
        n_z = len(self.elements)
        self._pairs = [(a, b) for a in range(n_z) for b in range(a, n_z)]
        self._pair_index = np.zeros((n_z, n_z), dtype=np.int64)
        for k, (a, b) in enumerate(self._pairs):
            self._pair_index[a, b] = self._pair_index[b, a] = k
        degrees = self.degree if isinstance(self.degree, tuple) else (self.degree,)
        n_pair = int(degrees[0])
        self.radials = [
            Radial((self.elements[a], self.elements[b]), int(max(degrees)), self.cutoff, **options)
            for a, b in self._pairs
        ]
        # The data behind the default may change; what was used belongs to the basis.
        options["r0"] = {e: self.radials[self._pair_index[z, z]].r0 for z, e in enumerate(self.elements)}
        self.parameters: dict[str, Any] = {
            "elements": list(self.elements),
            "order": self.order,
            "degree": list(self.degree) if isinstance(self.degree, tuple) else self.degree,
            "cutoff": self.cutoff,
            "pair_basis": self.pair_basis,
            **options,
        }
        functions = list_functions(n_z, self.order, self.degree)
        self._channels = Channels(n_z, [f for f, _ in functions])
        self._monomials = list_monomials(functions, self._channels, self.order)
        self._n_cluster = len(functions)
        self._n_pair = n_pair if self.pair_basis else 0
        labels = [
            BasisFunction("cluster", z, f.neighbours, f.n, f.l, f.coupling)
            for z in range(n_z)
            for f, _ in functions
        ]
        if self.pair_basis:
            labels += [
                BasisFunction("pair", a, (b,), (n,), (0,))
                for a, b in self._pairs
                for n in range(1, n_pair + 1)
            ]
        self.functions = tuple(labels)
        self._harmonics = harmonics_tables(self._channels.l_max)
        self._species = np.full(len(chemical_symbols), -1, dtype=np.int64)
        self._species[[atomic_numbers[e] for e in self.elements]] = np.arange(n_z)
        self._stacks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
        self._table: RadialTable | None = None
        self._template: PlanTemplate | None = None
        self._layout: RowLayout | None = None

    def __len__(self) -> int:
        return len(self.functions)

    def __repr__(self) -> str:
        pairs = f" and {self._n_pair * len(self._pairs)} pair functions" if self.pair_basis else ""
        degrees = self.degree if isinstance(self.degree, tuple) else (self.degree,)
        return (
            f"ACEBasis({', '.join(self.elements)}: order {self.order}, degree "
            f"{'/'.join(f'{d:g}' for d in degrees)}, cutoff "
            f"{self.cutoff:g} Å, {self._n_cluster * len(self.elements)} cluster functions{pairs})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ACEBasis) and self.parameters == other.parameters

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the parameters, by which files and fits tell bases apart."""
        text = json.dumps(self.parameters, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def species(self, atoms: Atoms) -> np.ndarray:
        """Index of the element of each atom (n,); ``StructureError`` for an element that the basis lacks."""
        numbers = np.asarray(atoms.numbers)
        known = (numbers >= 0) & (numbers < len(self._species))
        index = np.where(known, self._species[np.where(known, numbers, 0)], -1)
        if (index < 0).any():
            first = int(np.argmax(index < 0))
            unknown = sorted({chemical_symbols[n] for n in numbers[index < 0]})
            raise StructureError(
                f"atoms: no parameters for {', '.join(unknown)} (first: atom {first}); this ACE basis is for "
                f"other elements, it knows {', '.join(self.elements)}"
            )
        species: np.ndarray = index
        return species

    def rows(self, atoms: Atoms, *, forces: bool = True, virial: bool = True) -> ACERows:
        """Energy, forces and virial of `atoms` for each basis function alone: rows of a linear fit.

        Parameters
        ----------
        atoms : ase.Atoms
        forces, virial : bool
            Whether these are wanted; without both the call is several times faster.

        Returns
        -------
        ACERows

        Raises
        ------
        StructureError
            A structure that the basis cannot treat.
        """
        check_structure(atoms)
        return configuration_rows(self, atoms, self.species(atoms), forces, virial)

    @checked_keywords
    def site_energy_derivative_rows(
        self,
        crystal: Crystal,
        order: int = 2,
        cutoff: float | Sequence[float] = 5.0,
        *,
        max_memory: float = MAX_MEMORY,
        tuples: Mapping[int, Sequence[np.ndarray]] | None = None,
    ) -> CrystalRows:
        """Derivatives of the site energies at a crystal for each basis function, orders 1 to at most 3.

        Parameters are those of :meth:`ACEPotential.site_energy_derivatives`, and `tuples`: by order and basis
        atom the stencil numbers (m, j) of the only entries wanted, then given as (m, 3, 3, .., K).
        """
        return crystal_rows(self, "energy", crystal, order, cutoff, max_memory, tuples)

    @checked_keywords
    def force_derivative_rows(
        self,
        crystal: Crystal,
        order: int = 1,
        cutoff: float | Sequence[float] = 5.0,
        *,
        max_memory: float = MAX_MEMORY,
        tuples: Mapping[int, Sequence[np.ndarray]] | None = None,
    ) -> CrystalRows:
        """Derivatives of the forces at a crystal for each basis function, orders 1 to at most 2.

        Those of order one are minus the force constants, without the block of the atom itself.
        """
        return crystal_rows(self, "force", crystal, order, cutoff, max_memory, tuples)

    @checked_keywords
    def cauchy_born_rows(self, crystal: Crystal, order: int = 2) -> CauchyBornRows:
        """Derivatives of the energy per cell by the deformation, the basis atoms held, for each function."""
        return cauchy_born_rows(self, crystal, order)

    # -- what evaluation needs -------------------------------------------------------------------------------

    def _radial_stacks(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By pair of elements: cluster, pair functions (3, functions, nodes) and core (3, nodes)."""
        if self._stacks is None:
            r = grid(self.cutoff, MINIMUM_DISTANCE / 2)
            n = int(self._channels.n_max.max())
            self._stacks = [(f.cluster(r, 2)[:, :n], f.pair(r, 2), f.core_energy(r, 2)) for f in self.radials]
        return self._stacks

    def _row_table(self) -> RadialTable:
        """Cluster functions, pair functions, core."""
        if self._table is None:
            self._table = make_table(self._row_stacks(), self._pair_index)
        return self._table

    def _row_stacks(self) -> list[np.ndarray]:
        return [
            np.concatenate([cluster, pair[:, : self._n_pair], core[:, None]], axis=1)
            for cluster, pair, core in self._radial_stacks()
        ]

    def _potential_table(self, coefficients: np.ndarray) -> RadialTable:
        """Cluster functions, and the pair potential of the coefficients with the core."""
        of_pairs = coefficients[self._n_cluster * len(self.elements) :].reshape(len(self._pairs), -1)
        stacks = [
            np.concatenate([cluster, (np.einsum("n,kng->kg", c, pair[:, : len(c)]) + core)[:, None]], axis=1)
            for c, (cluster, pair, core) in zip(of_pairs, self._radial_stacks(), strict=True)
        ]
        return make_table(stacks, self._pair_index)

    def _plan(self, coefficients: np.ndarray) -> Plan:
        if self._template is None:
            self._template = PlanTemplate(self._monomials, self._channels.size)
        n = self._n_cluster
        return join_plans(
            [self._template.fill(coefficients[z * n : (z + 1) * n]) for z in range(len(self.elements))]
        )

    def _row_layout(self) -> RowLayout:
        if self._layout is None:
            self._layout = RowLayout.of(self._monomials, self._n_cluster, self._channels.size)
        return self._layout


def _checked_degree(degree: Any, order: int) -> float | tuple[float, ...]:
    """One number, or one for each correlation order."""
    if np.ndim(degree) == 0:
        one = check_positive("degree", degree)
        if one < order:
            raise ValueError(f"degree: got {degree!r}, expected at least the order, {order}")
        return one
    several = tuple(check_positive(f"degree[{k}]", d) for k, d in enumerate(degree))
    if len(several) != order:
        raise ValueError(f"degree: got {len(several)} numbers for order {order}; give one, or one per order")
    for k, d in enumerate(several):
        if d < k + 1:
            raise ValueError(f"degree: got {d:g} for order {k + 1}, expected at least the order")
    return several


def _checked_elements(elements: str | Iterable[str]) -> tuple[str, ...]:
    names = (elements,) if isinstance(elements, str) else tuple(elements)
    if not names:
        raise ValueError("elements: got none, expected chemical symbols such as 'W' or ('Ni', 'Al')")
    for name in names:
        if not isinstance(name, str) or not atomic_numbers.get(name, 0):
            raise ValueError(f"elements: got {name!r}, expected chemical symbols such as 'W' or ('Ni', 'Al')")
    if len(set(names)) < len(names):
        raise ValueError(f"elements: got {names}, expected each element once")
    return names
