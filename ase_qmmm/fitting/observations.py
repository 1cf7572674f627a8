"""What a linear model is fitted to: energies, forces and virials of configurations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ..errors import check_structure, checked_keywords

__all__ = ["KINDS", "Block", "Configuration", "Observations", "resolve_weights"]

KINDS = ("energy", "forces", "virial")
# Factors of squared errors: energies 30 times as exact as forces, as eps^E ~ (eps^F)^2 asks for
# (generalisation of point defects, section 4.1).
DEFAULT_WEIGHTS = {"energy": 900.0, "forces": 1.0, "virial": 1.0}
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


@dataclass(frozen=True)
class Block:
    """Rows of one configuration and kind: design (m, K), targets (m,), factors of the squared errors (m,).

    `unit` divides residuals where errors are stated: the number of atoms for energies and virials.
    """

    group: str
    kind: str
    design: np.ndarray
    targets: np.ndarray
    factors: np.ndarray
    unit: float


class Observations:
    """Data of a fit. Methods add to it and return it, so that calls can be chained.

    Attributes
    ----------
    configurations : list of Configuration
    """

    def __init__(self) -> None:
        self.configurations: list[Configuration] = []

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts().items())
        return f"Observations({len(self.configurations)} configurations: {counts})"

    def counts(self) -> dict[str, int]:
        """Numbers of data by kind."""
        totals = dict.fromkeys(KINDS, 0)
        for c in self.configurations:
            totals["energy"] += c.energy is not None
            totals["forces"] += 0 if c.forces is None else c.forces.size
            totals["virial"] += 0 if c.virial is None else 6
        return totals

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that occur, in alphabetical order."""
        return sorted({s for c in self.configurations for s in c.atoms.symbols})

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

    def blocks(
        self,
        basis: Any,
        weights: Mapping[str, Mapping[str, float]],
        reference_energies: Mapping[str, float],
    ) -> Iterator[Block]:
        """Rows of all data, one configuration and kind after the other; those of weight zero are left out.

        Parameters
        ----------
        basis : ACEBasis
        weights : mapping of str to mapping of str to float
            By group and kind, of squared errors; see :func:`resolve_weights`.
        reference_energies : mapping of str to float
            Energies of free atoms (eV), which are not fitted.
        """
        for c in self.configurations:
            w = weights[c.group]
            use = {
                "energy": c.energy is not None and w["energy"] > 0,
                "forces": c.forces is not None and w["forces"] > 0 and len(c.atoms) > 0,
                "virial": c.virial is not None and w["virial"] > 0,
            }
            if not any(use.values()):
                continue
            n = len(c.atoms)
            rows = basis.rows(c.atoms, forces=use["forces"], virial=use["virial"])
            if use["energy"]:
                assert c.energy is not None
                free = sum(reference_energies[s] for s in c.atoms.symbols)
                target = np.array([c.energy - free - rows.core.energy])
                yield Block(c.group, "energy", rows.energy[None], target, np.full(1, w["energy"] / n), n)
            if use["forces"]:
                assert c.forces is not None
                target = (c.forces - rows.core.forces).ravel()
                yield Block(c.group, "forces", rows.forces, target, np.full(3 * n, w["forces"]), 1.0)
            if use["virial"]:
                assert c.virial is not None
                target = c.virial - _voigt(rows.core.virial)
                yield Block(c.group, "virial", rows.virial, target, VOIGT_WEIGHTS * w["virial"] / n, n)

    def digest(self) -> str:
        """SHA-256 of the data, by which a fit says what it was made from."""
        digest = hashlib.sha256()
        for c in self.configurations:
            digest.update(c.group.encode())
            a = c.atoms
            for array in (a.numbers, a.positions, a.cell.array, a.pbc, c.energy, c.forces, c.virial):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def resolve_weights(
    observations: Observations, weights: Mapping[str, Any] | None
) -> dict[str, dict[str, float]]:
    """Weights by group and kind from ``{kind: number}`` or ``{group: {kind: number}}``.

    Kinds are "energy", "forces" and "virial"; what is not given keeps its default (900, 1, 1), a group
    "default" holds for all groups that are not named.

    Raises
    ------
    ValueError
        A group or kind that does not exist, a weight that is negative or not finite.
    """
    groups = sorted({c.group for c in observations.configurations})
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
