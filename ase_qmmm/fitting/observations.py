"""What a linear model is fitted to: energies, forces and virials of configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ..crystal import Crystal
from ..errors import check_structure, checked_keywords
from .blocks import Block
from .crystal_data import CauchyBornData, StencilData, cauchy_born_data, stencil_data

__all__ = ["KINDS", "Configuration", "Observations", "resolve_weights"]

# Factors of squared errors: energies 30 times as exact as forces, as eps^E ~ (eps^F)^2 asks for
# (generalisation of point defects, section 4.1). Those of the derivatives have the ratios of the adaptive
# scheme, eq. (4.5), and of the generalisation of dislocations, section 5.
DEFAULT_WEIGHTS = {
    "energy": 900.0,
    "forces": 1.0,
    "virial": 1.0,
    "dV1": 1.0,
    "dV2": 1.0,
    "dV3": 1.0,
    "dF1": 1.0,
    "dF2": 1.0,
    "W1": 1.0,
    "W2": 1.0,
    "W3": 0.1,
}
KINDS = tuple(DEFAULT_WEIGHTS)
# xx, yy, zz, yz, xz, xy, each of the last three twice in the norm of a symmetric matrix.
VOIGT_WEIGHTS = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])


@dataclass(frozen=True)
class Configuration:
    """One structure with what is known of it, and the group that its weights and errors are stated for.

    Attributes
    ----------
    atoms : ase.Atoms
    energy : float, optional
        eV.
    forces : ndarray, shape (n, 3), optional
        eV/Å.
    virial : ndarray, shape (6,), optional
        eV, ``-dE/dstrain`` in the order xx, yy, zz, yz, xz, xy.
    group : str
    """

    atoms: Atoms
    energy: float | None
    forces: np.ndarray | None
    virial: np.ndarray | None
    group: str = "default"

    def blocks(
        self, basis: Any, weights: Mapping[str, float], reference_energies: Mapping[str, float]
    ) -> Iterator[Block]:
        """Rows of a linear model by kind."""
        w = weights
        use = {
            "energy": self.energy is not None and w["energy"] > 0,
            "forces": self.forces is not None and w["forces"] > 0 and len(self.atoms) > 0,
            "virial": self.virial is not None and w["virial"] > 0,
        }
        if not any(use.values()):
            return
        n = len(self.atoms)
        rows = basis.rows(self.atoms, forces=use["forces"], virial=use["virial"])
        if use["energy"]:
            assert self.energy is not None
            free = sum(reference_energies[s] for s in self.atoms.symbols)
            target = np.array([self.energy - free - rows.core.energy])
            yield Block(self.group, "energy", rows.energy[None], target, np.full(1, w["energy"] / n), n)
        if use["forces"]:
            assert self.forces is not None
            target = (self.forces - rows.core.forces).ravel()
            yield Block(self.group, "forces", rows.forces, target, np.full(3 * n, w["forces"]), 1.0)
        if use["virial"]:
            assert self.virial is not None
            target = self.virial - _voigt(rows.core.virial)
            yield Block(self.group, "virial", rows.virial, target, VOIGT_WEIGHTS * w["virial"] / n, n)


class Observations:
    """Data of a fit. Methods add to it and return it, so that calls can be chained.

    Attributes
    ----------
    configurations : list of Configuration
    derivatives : list of StencilData and CauchyBornData
        Derivatives at perfect crystals.
    """

    def __init__(self) -> None:
        self.configurations: list[Configuration] = []
        self.derivatives: list[StencilData | CauchyBornData] = []

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts().items())
        return f"Observations({len(self.configurations)} configurations: {counts})"

    @property
    def sources(self) -> list[Configuration | StencilData | CauchyBornData]:
        """All that rows are made of."""
        return [*self.configurations, *self.derivatives]

    def counts(self) -> dict[str, int]:
        """Numbers of data by kind; derivatives are counted as reduced by symmetry, if there are any."""
        totals = dict.fromkeys(("energy", "forces", "virial"), 0)
        for c in self.configurations:
            totals["energy"] += c.energy is not None
            totals["forces"] += 0 if c.forces is None else c.forces.size
            totals["virial"] += 0 if c.virial is None else 6
        for d in self.derivatives:
            for kind, n in d.counts.items():
                totals[kind] = totals.get(kind, 0) + n
        return totals

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur, in alphabetical order."""
        cells = [d.crystal.unit_cell for d in self.derivatives]
        return sorted(
            {s for atoms in [*(c.atoms for c in self.configurations), *cells] for s in atoms.symbols}
        )

    @checked_keywords
    def add_configurations(
        self,
        images: Atoms | Iterable[Atoms],
        *,
        energy_key: str = "energy",
        forces_key: str = "forces",
        virial_key: str = "virial",
        group: str | None = None,
        group_key: str = "config_type",
    ) -> Observations:
        """Add structures with energies, forces and virials, as extended XYZ files hold them.

        Each is looked for in ``atoms.info`` or ``atoms.arrays`` under its key, then among the results of a
        calculator that is attached (the virial also as ``stress``, of which it is ``-volume`` times). What is
        found nowhere is not fitted.

        Parameters
        ----------
        images : ase.Atoms or iterable of ase.Atoms
        energy_key, forces_key, virial_key : str
            Names of the data (eV, eV/Å, eV; a virial has six numbers in Voigt's order or is 3 x 3).
        group : str, optional
            Name of the group; default what ``atoms.info[group_key]`` says, else "default".
        group_key : str

        Raises
        ------
        ValueError
            A structure with no data at all; data of a wrong shape or not finite (image and atom are named).
        """
        new = []
        for number, atoms in enumerate([images] if isinstance(images, Atoms) else images):
            check_structure(atoms)
            energy = _find(atoms, energy_key, "energy")
            forces = _find(atoms, forces_key, "forces")
            virial = _find_virial(atoms, virial_key)
            if energy is None and forces is None and virial is None:
                there = sorted({*atoms.info, *atoms.arrays} - {"numbers", "positions"})
                raise ValueError(
                    f"images: image {number} has no {energy_key!r}, {forces_key!r} or {virial_key!r}; it has "
                    f"{', '.join(there) or 'no data'}"
                )
            name = str(atoms.info.get(group_key, "default")) if group is None else group
            n = len(atoms)
            new.append(
                Configuration(
                    _bare(atoms),
                    None if energy is None else float(_checked(energy, (), number, energy_key)),
                    None if forces is None else _checked(forces, (n, 3), number, forces_key),
                    None if virial is None else _checked(virial, (6,), number, virial_key),
                    name,
                )
            )
        self.configurations += new
        return self

    @checked_keywords
    def add_site_derivatives(
        self,
        model: Any,
        crystal: Crystal | None = None,
        order: int | None = None,
        cutoff: float | Sequence[float] = 5.0,
        *,
        gamma: float = 0.0,
        group: str = "crystal",
    ) -> Observations:
        """Add derivatives of the site energies at a crystal, kinds "dV1", "dV2", "dV3".

        A fit to them minimises ``sum_j C_j (eps_j^E)^2`` with the errors of :func:`matching_errors`: sums
        over all tuples of stencil vectors with the weights ``exp(2 gamma (|rho_1| + .. + |rho_j|))``. One
        tuple of each class that the symmetry of the crystal maps onto each other is kept, with the size of
        the class as its weight, which gives the same minimum.

        Parameters
        ----------
        model : object
            With ``site_energy_derivatives(crystal, order, cutoff)``, or a
            :class:`~ase_qmmm.taylor.CrystalDerivatives` of kind "energy" with its own crystal and radii.
        crystal : Crystal
        order : int
            Highest order, at most 3; default 2, or what is given.
        cutoff : float or sequence of float
            Å, one for all orders or one for each.
        gamma : float
            1/Å, zero or more.
        group : str

        Raises
        ------
        TypeError
            A model without these derivatives; no crystal.
        ValueError
            Order or gamma out of range; derivatives that are of another kind or not finite.

        References
        ----------
        H. Chen, C. Ortner, Y. Wang, QM/MM methods for crystalline defects, part 3, eqs. (3.1), (4.1).
        """
        self.derivatives.append(stencil_data("energy", model, crystal, order, cutoff, gamma, group))
        return self

    @checked_keywords
    def add_force_constants(
        self,
        model: Any,
        crystal: Crystal | None = None,
        order: int | None = None,
        cutoff: float | Sequence[float] = 5.0,
        *,
        gamma: float = 0.0,
        group: str = "crystal",
    ) -> Observations:
        """Add derivatives of the forces at a crystal, kinds "dF1" (minus the force constants) and "dF2".

        Parameters are those of :meth:`add_site_derivatives`, with ``model.force_derivatives``; the highest
        order is 2, the default 1.

        References
        ----------
        H. Chen, C. Ortner, Y. Wang, QM/MM methods for crystalline defects, part 3, eqs. (3.6), (4.2);
        adaptive QM/MM coupling, eq. (4.5).
        """
        self.derivatives.append(stencil_data("force", model, crystal, order, cutoff, gamma, group))
        return self

    @checked_keywords
    def add_virial_derivatives(
        self, model: Any, crystal: Crystal | None = None, order: int | None = None, *, group: str = "crystal"
    ) -> Observations:
        """Add derivatives of the Cauchy–Born energy per cell by the deformation, kinds "W1", "W2", "W3".

        The basis atoms are held at their places in the cell, which keeps the rows linear in the coefficients.

        Parameters
        ----------
        model : object
            With ``cauchy_born_derivatives(crystal, order)``, or a
            :class:`~ase_qmmm.taylor.cauchy_born.CauchyBornDerivatives` with ``relaxed=False``.
        crystal : Crystal
        order : int
            Highest order, at most 3; default 2, or what is given.
        group : str

        Raises
        ------
        TypeError, ValueError
            As for :meth:`add_site_derivatives`; derivatives with relaxed basis atoms.

        References
        ----------
        H. Chen, C. Ortner, Y. Wang, part 3, loss L_V after eq. (4.2); adaptive QM/MM coupling, eq. (4.5);
        generalisation of dislocations, eq. (4.16).
        """
        self.derivatives.append(cauchy_born_data(model, crystal, order, group))
        return self

    def blocks(
        self,
        basis: Any,
        weights: Mapping[str, Mapping[str, float]],
        reference_energies: Mapping[str, float],
    ) -> Iterator[Block]:
        """Rows of all data, one source and kind after the other; those of weight zero are left out.

        Parameters
        ----------
        basis : ACEBasis
        weights : mapping of str to mapping of str to float
            By group and kind, of squared errors; see :func:`resolve_weights`.
        reference_energies : mapping of str to float
            Energies of free atoms (eV), which are not fitted.
        """
        for source in self.sources:
            yield from source.blocks(basis, weights[source.group], reference_energies)

    def digest(self) -> str:
        """SHA-256 of the data, by which a fit says what it was made from."""
        digest = hashlib.sha256()
        for c in self.configurations:
            digest.update(c.group.encode())
            a = c.atoms
            for array in (a.numbers, a.positions, a.cell.array, a.pbc, c.energy, c.forces, c.virial):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for d in self.derivatives:
            digest.update(f"{d.group} {' '.join(d.counts)}".encode())
            cell = d.crystal.unit_cell
            for array in (cell.numbers, cell.positions, cell.cell.array, cell.pbc, *d.arrays):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def resolve_weights(
    observations: Observations, weights: Mapping[str, Any] | None
) -> dict[str, dict[str, float]]:
    """Weights by group and kind from ``{kind: number}`` or ``{group: {kind: number}}``.

    Kinds are "energy" (default 900), "forces", "virial", the derivatives "dV1", "dV2", "dV3" of site
    energies, "dF1", "dF2" of forces and "W1", "W2" of the Cauchy–Born energy (all 1), and "W3" (0.1). A group
    "default" holds for all groups that are not named.

    Raises
    ------
    ValueError
        A group or kind that does not exist, a weight that is negative or not finite.
    """
    groups = sorted({source.group for source in observations.sources})
    given = dict(weights or {})
    common: dict[str, float] = dict(DEFAULT_WEIGHTS)
    if given and all(not isinstance(value, Mapping) for value in given.values()):
        given = {"default": given}
    for name, table in given.items():
        if name != "default" and name not in groups:
            raise ValueError(f"weights: no group {name!r}; there are {', '.join(groups)}")
        if not isinstance(table, Mapping):
            raise ValueError(f"weights: got {table!r} for {name!r}, expected numbers by kind")
        for kind, value in table.items():
            if kind not in KINDS:
                raise ValueError(f"weights: no kind {kind!r}; there are {', '.join(KINDS)}")
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"weights: got {value!r} for {name} {kind}, expected zero or more")
    common |= {k: float(v) for k, v in given.get("default", {}).items()}
    return {g: common | {k: float(v) for k, v in given.get(g, {}).items()} for g in groups}


def _find(atoms: Atoms, key: str, name: str) -> Any:
    for place in (atoms.info, atoms.arrays):
        if key in place:
            return place[key]
    results = getattr(atoms.calc, "results", {})
    if name == "energy" and "free_energy" in results:
        # The forces are its gradient, where the two differ.
        return results["free_energy"]
    return results.get(name)


def _find_virial(atoms: Atoms, key: str) -> Any:
    found = atoms.info.get(key)
    if found is None:
        stress = getattr(atoms.calc, "results", {}).get("stress")
        if stress is None or atoms.cell.rank < 3:
            return None
        stress = np.asarray(stress, dtype=float)
        found = -atoms.get_volume() * (voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress)
    found = np.asarray(found, dtype=float)
    if found.shape == (9,):
        found = found.reshape(3, 3)
    return _voigt(found) if found.shape == (3, 3) else found


def _voigt(matrix: np.ndarray) -> np.ndarray:
    symmetric = (matrix + matrix.T) / 2
    voigt: np.ndarray = symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return voigt


def _checked(value: Any, shape: tuple[int, ...], number: int, key: str) -> np.ndarray:
    array = np.array(value, dtype=float)
    if array.shape != shape:
        raise ValueError(f"images: image {number} has {key!r} of shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        where = f" on atom {np.argwhere(~np.isfinite(array))[0][0]}" if array.ndim == 2 else ""
        raise ValueError(f"images: {key!r} of image {number} is not finite{where}; leave it out")
    return array


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
