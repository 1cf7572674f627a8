"""Preconditioned relaxations: ASE's ``Exp`` factorised once, force constants, and LBFGS by forces alone."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize.optimize import Optimizer
from ase.optimize.precon import Exp
from scipy import sparse
from scipy.sparse.linalg import splu

from .errors import NumericsError, check_integer, check_positive
from .neighbours import neighbour_pairs

if TYPE_CHECKING:
    from .taylor.force_constants import ForceConstants

__all__ = ["FactorisedExp", "ForceConstantPrecon", "PreconditionedLBFGS"]

# Of mu, on the diagonal: keeps groups of atoms that are bound to nothing from making the matrix singular.
RIDGE = 1e-6
# Atoms in a cut across the system (its separator), above which factors fill too much: a cube of 10 000.
LARGEST_SEPARATOR = 750
# Relative residual of conjugate gradients, which LBFGS corrects as it does the preconditioner itself.
TOLERANCE = 1e-5
MOST_ITERATIONS = 2000


class FactorisedExp(Exp):
    """ASE's ``Exp`` preconditioner [1]_, ``P_ij = -mu exp(-A (r_ij / r_NN - 1))``, with a kept factorisation.

    The matrix is the same for x, y and z, and is made anew only when an atom has moved by half a bond in one
    step. ``Exp`` factorises the matrix of all three again in each step; here one of a third of the size is
    factorised when the matrix changes, and each step is a substitution. Systems that are large in three
    dimensions, whose factors would fill (their cost grows with the square of the number of atoms), are solved
    by conjugate gradients instead. Bonds come from matscipy's neighbour list, in any cell.

    Parameters
    ----------
    bond_range : float
        Atoms within this many nearest-neighbour distances are bound. Fewer bonds make the factorisation
        cheaper; in the lattices of metals 1.5 takes first and second neighbours.
    **options
        As for ``Exp``: ``A``, ``mu``, ``c_stab`` ...

    References
    ----------
    .. [1] D. Packwood et al., J. Chem. Phys. 144, 164109 (2016).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.optimize.precon import PreconLBFGS
    >>> from ase_qmmm import EAM
    >>> from ase_qmmm.preconditioning import FactorisedExp
    >>> atoms = bulk("W", a=3.165, cubic=True) * 4
    >>> atoms.rattle(0.05, seed=1)
    >>> atoms.calc = EAM("W-zhou04")
    >>> bool(PreconLBFGS(atoms, precon=FactorisedExp(), use_armijo=False, logfile=None).run(fmax=1e-3))
    True
    """

    def __init__(self, bond_range: float = 1.5, **options: Any) -> None:
        super().__init__(solver="direct", **options)
        self.bond_range = bond_range
        self.neighbor_list = _pairs
        self._iterative = False
        self._factors: Any = None

    def make_precon(self, atoms: Atoms, reinitialize: bool | None = None) -> None:
        """See ``Exp``."""
        if self.r_NN is None:
            self.r_NN = _bond_length(getattr(atoms, "atoms", atoms))
        if self.r_cut is None:
            self.r_cut = self.bond_range * self.r_NN
        self._iterative = _separator(getattr(atoms, "atoms", atoms), self.r_cut) > LARGEST_SEPARATOR
        super().make_precon(atoms, reinitialize)

    def estimate_mu(self, atoms: Atoms, H: np.ndarray | None = None) -> Any:
        """See ``Exp``."""
        with warnings.catch_warnings():
            # Flat systems: no stiffness is sought across them.
            warnings.filterwarnings("ignore", message="Cell length")
            return super().estimate_mu(atoms, H)

    def create_solver(self) -> None:
        """Forget the factors; the next :meth:`solve` makes them."""
        self._factors = None

    def solve(self, x: np.ndarray) -> np.ndarray:
        """``P^-1 x`` for (3n,) values."""
        columns = np.ascontiguousarray(x.reshape(-1, 3))
        if self._factors is None:
            matrix: Any = self.P
            block = matrix[::3, ::3]
            block = block + sparse.identity(block.shape[0]) * (RIDGE * self.mu)
            # Symmetric and diagonally dominant: no pivoting, and an order that keeps the symmetry.
            self._factors = (
                block.tocsr()
                if self._iterative
                else splu(
                    block.tocsc(),
                    permc_spec="MMD_AT_PLUS_A",
                    diag_pivot_thresh=0.0,
                    options={"SymmetricMode": True},
                )
            )
        if self._iterative:
            return _conjugate_gradients(self._factors, columns).ravel()
        y: np.ndarray = self._factors.solve(columns).ravel()
        return y

    def copy(self) -> FactorisedExp:
        """A copy that makes its own factors."""
        other = copy.copy(self)
        other._factors = None
        return other


class ForceConstantPrecon:
    """Preconditioner from the force constants of the crystal, put on the atoms of a structure with a defect.

    Pairs that sit on the stencils of the crystal get their force constants, other bonds (in the core of a
    defect) a spring of the mean stiffness of a bond; sums over pairs make the diagonal, so that translations
    cost nothing. Unlike ``Exp`` it knows that bonds are harder to stretch than to turn, of which the number
    of steps in open structures such as diamond depends. Eigenvalues are taken positive, and not below a part
    of the largest. The matrix is dense: for some thousand free atoms, and models whose forces are much
    dearer than that. It is made at the first step and kept.

    Parameters
    ----------
    constants : ForceConstants
        E.g. ``TaylorForces.force_constants``.
    floor : float
        Smallest eigenvalue, as part of the largest.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import EAM, Crystal, TaylorForces
    >>> from ase_qmmm.preconditioning import ForceConstantPrecon, PreconditionedLBFGS
    >>> calc = EAM("W-zhou04")
    >>> crystal = Crystal.relaxed(bulk("W", a=3.165), calc)
    >>> mm = TaylorForces.from_calculator(calc, crystal, cutoff=6.0)
    >>> atoms = crystal.supercell(3, cubic=True)
    >>> del atoms[0]
    >>> atoms.calc = calc
    >>> precon = ForceConstantPrecon(mm.force_constants)
    >>> bool(PreconditionedLBFGS(atoms, precon=precon, logfile=None).run(fmax=1e-6, steps=15))
    True
    """

    def __init__(self, constants: ForceConstants, floor: float = 1e-3) -> None:
        self.constants = constants
        self.floor = check_positive("floor", floor)
        self._free: np.ndarray | None = None
        self._inverse = np.zeros((0, 0))

    def __repr__(self) -> str:
        return f"ForceConstantPrecon({self.constants!r}, floor={self.floor:g})"

    def make_precon(self, atoms: Atoms) -> None:
        """Make the matrix for the free atoms, at the first call and when other atoms are free."""
        free = np.ones(len(atoms), dtype=bool)
        for constraint in atoms.constraints:
            if isinstance(constraint, FixAtoms):
                free[constraint.index] = False
        if self._free is not None and np.array_equal(self._free, np.repeat(free, 3)):
            return
        levels, vectors = np.linalg.eigh(self._stiffness(atoms, free))
        levels = np.maximum(np.abs(levels), self.floor * np.abs(levels).max(initial=0.0))
        if not len(levels) or levels[0] <= 0:
            raise NumericsError("preconditioner: no free atom is bound to another")
        self._inverse = (vectors / levels) @ vectors.T
        self._free = np.repeat(free, 3)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """``P^-1 x`` for (3n,) values; zero on atoms that are held."""
        assert self._free is not None
        y = np.zeros_like(x)
        y[self._free] = self._inverse @ x[self._free]
        return y

    def _stiffness(self, atoms: Atoms, free: np.ndarray) -> np.ndarray:
        """Hessian (3m, 3m) of the free atoms."""
        crystal = self.constants.crystal
        match = crystal.match(atoms, self.constants.cutoff)
        i, k = np.nonzero((match.neighbours >= 0) & free[:, None])
        j = match.neighbours[i, k]
        table = np.zeros((crystal.n_basis, match.neighbours.shape[1], 3, 3))
        for b, phi in enumerate(self.constants.matrices):
            table[b, : len(phi)] = match.rotation @ phi @ match.rotation.T
        blocks = table[match.basis[i], k]
        near = 1.2 * crystal.nearest_neighbour_distance
        shell = np.array([len(crystal.stencil(b, near)) for b in range(crystal.n_basis)])
        bonds = k < shell[match.basis[i]]
        spring = np.eye(3) * blocks[bonds].trace(axis1=1, axis2=2).mean() / 3 if bonds.any() else -np.eye(3)
        first, second = neighbour_pairs(atoms, near, "ij")
        first, second = first[free[first]], second[free[first]]
        known = set(zip(i[bonds].tolist(), j[bonds].tolist(), strict=True))
        lacking = np.array([p not in known for p in zip(first.tolist(), second.tolist(), strict=True)], bool)
        i, j = np.append(i, first[lacking]), np.append(j, second[lacking])
        blocks = np.concatenate([blocks, np.broadcast_to(spring, (lacking.sum(), 3, 3))])
        place = np.cumsum(free) - 1
        m = int(free.sum())
        matrix = np.zeros((m, m, 3, 3))
        np.add.at(matrix, (place[i], place[i]), -blocks)
        inner = free[j]
        np.add.at(matrix, (place[i[inner]], place[j[inner]]), blocks[inner])
        hessian = matrix.swapaxes(1, 2).reshape(3 * m, 3 * m)
        symmetric: np.ndarray = (hessian + hessian.T) / 2
        return symmetric


class PreconditionedLBFGS(Optimizer):
    """LBFGS with a preconditioner as first inverse Hessian; it never asks for an energy.

    ``PreconLBFGS`` searches along lines by the energy, whose last digits (1e-12 of a total energy) end it at
    forces of about 1e-7 eV/Å, and which mixed forces do not have. This one takes whole steps, and converges
    to the rounding of the forces. The preconditioner is scaled by the last step, ``s.y / y.P^-1 y``, as is
    usual in LBFGS [1]_: its own stiffness mu is estimated at the first geometry, where close atoms may make
    it a hundred times too stiff.

    Parameters
    ----------
    atoms : ase.Atoms
    bond_range : float
        See :class:`FactorisedExp`, which is the preconditioner without `precon`.
    memory : int
        Steps that are remembered.
    maxstep : float
        Å; a step that moves an atom further is shortened as a whole.
    precon : ForceConstantPrecon or ase.optimize.precon.Precon, optional
    **options
        As for ASE's optimisers: ``logfile``, ``trajectory`` ...

    References
    ----------
    .. [1] J. Nocedal, S. J. Wright, Numerical Optimization (2006), eq. (7.20).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import EAM
    >>> from ase_qmmm.preconditioning import PreconditionedLBFGS
    >>> atoms = bulk("W", a=3.165, cubic=True) * 4
    >>> atoms.rattle(0.05, seed=1)
    >>> atoms.calc = EAM("W-zhou04")
    >>> bool(PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-9))
    True
    """

    def __init__(
        self,
        atoms: Atoms,
        bond_range: float = 1.5,
        memory: int = 50,
        maxstep: float = 0.2,
        precon: Any = None,
        **options: Any,
    ) -> None:
        self.precon = FactorisedExp(bond_range) if precon is None else precon
        self.maxstep = check_positive("maxstep", maxstep, "Å")
        self.memory = check_integer("memory", memory, 1)
        super().__init__(atoms, **options)

    def initialize(self) -> None:
        """Forget the past (called by ASE)."""
        self._pairs: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=self.memory)
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._scale = 1.0

    def step(self, forces: np.ndarray | None = None) -> None:
        """One step."""
        atoms = self.atoms
        gradient = -(atoms.get_forces() if forces is None else np.asarray(forces)).reshape(-1)
        positions = atoms.get_positions().reshape(-1)
        if self._last is not None:
            s, y = positions - self._last[0], gradient - self._last[1]
            curvature = float(s @ y)
            # Where the curvature is negative the past says nothing about the minimum.
            if curvature > 0:
                self._pairs.append((s, y, curvature))
            else:
                self._pairs.clear()
        self.precon.make_precon(atoms)
        if self._pairs:
            _, y, curvature = self._pairs[-1]
            self._scale = curvature / float(y @ self.precon.solve(y))
        q, parts = gradient.copy(), []
        for s, y, curvature in reversed(self._pairs):
            parts.append(float(s @ q) / curvature)
            q -= parts[-1] * y
        q = self.precon.solve(q) * self._scale
        for (s, y, curvature), part in zip(self._pairs, reversed(parts), strict=True):
            q += (part - float(y @ q) / curvature) * s
        move = -q.reshape(-1, 3)
        longest = float(np.linalg.norm(move, axis=1).max(initial=0.0))
        if longest > self.maxstep:
            move *= self.maxstep / longest
        self._last = (positions, gradient)
        atoms.set_positions(atoms.get_positions() + move)


def _separator(atoms: Atoms, width: float) -> float:
    """About how many atoms a cut of `width` (Å) across the longest extent of a system meets."""
    extent = np.ptp(atoms.get_scaled_positions(wrap=False), axis=0) * atoms.cell.lengths()
    return len(atoms) * width / max(float(extent.max(initial=0.0)), width)


def _conjugate_gradients(matrix: Any, columns: np.ndarray) -> np.ndarray:
    """``matrix^-1 columns`` for a symmetric positive matrix (n, n), each of the (n, 3) columns by itself."""
    x = np.zeros_like(columns)
    residual = columns.copy()
    direction = residual.copy()
    square = (residual**2).sum(axis=0)
    goal = square * TOLERANCE**2
    for _ in range(MOST_ITERATIONS):
        if (square <= goal).all():
            break
        image = matrix @ direction
        curvature = (direction * image).sum(axis=0)
        # A column that is solved stays as it is.
        step = np.divide(square, curvature, out=np.zeros(3), where=square > goal)
        x += step * direction
        residual -= step * image
        last, square = square, (residual**2).sum(axis=0)
        direction = residual + np.divide(square, last, out=np.zeros(3), where=last > 0) * direction
    return x


def _pairs(quantities: str, atoms: Atoms, cutoff: float, *_: Any) -> tuple[np.ndarray, ...]:
    return neighbour_pairs(atoms, cutoff, quantities)


def _bond_length(atoms: Atoms) -> float:
    """Median (Å) of the distances from an atom to its nearest neighbour."""
    radius = 3.0
    while True:
        i, d = neighbour_pairs(atoms, radius, "id")
        if len(np.unique(i)) > len(atoms) / 2:
            nearest = np.full(len(atoms), np.inf)
            np.minimum.at(nearest, i, d)
            return float(np.median(nearest))
        if radius > 100.0:
            raise ValueError("preconditioner: most atoms have no neighbour within 100 Å")
        radius *= 1.5
