"""Lines of dislocations, found by OVITO."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ..errors import check_structure

__all__ = ["DislocationLine", "dislocation_lines"]

_LATTICES = {
    "bcc": "BCC",
    "fcc": "FCC",
    "hcp": "HCP",
    "diamond": "CubicDiamond",
    "hexdiamond": "HexagonalDiamond",
}
# Period (Å) that OVITO's probe spheres want.
_SHORTEST_PERIOD = 20.0


@dataclass(frozen=True)
class DislocationLine:
    """A dislocation that OVITO found.

    Attributes
    ----------
    burgers : ndarray, shape (3,)
        Burgers vector in units of the conventional cell of the lattice, as OVITO orients it.
    spatial_burgers : ndarray, shape (3,)
        The same in the axes of the atoms (Å).
    points : ndarray, shape (m, 3)
        The line (Å); not wrapped into the cell.
    length : float
        Å, in the cell that was given.
    """

    burgers: np.ndarray
    spatial_burgers: np.ndarray
    points: np.ndarray
    length: float


def dislocation_lines(atoms: Atoms, lattice: str) -> list[DislocationLine]:
    """Dislocations found by the dislocation extraction algorithm of OVITO [1]_.

    Needs OVITO (``pip install 'ase-qmmm[analysis]'``). Cells that are thin along a periodic direction are
    repeated for it.

    Parameters
    ----------
    atoms : ase.Atoms
    lattice : {"bcc", "fcc", "hcp", "diamond", "hexdiamond"}

    Returns
    -------
    list of DislocationLine

    Raises
    ------
    ImportError
        OVITO is not installed.
    ValueError
        Another `lattice`.

    References
    ----------
    .. [1] A. Stukowski, V. V. Bulatov, A. Arsenlis, Model. Simul. Mater. Sci. Eng. 20, 085007 (2012).
    """
    if lattice not in _LATTICES:
        raise ValueError(f"lattice: got {lattice!r}, expected one of {', '.join(_LATTICES)}")
    check_structure(atoms)
    try:
        from ovito.io.ase import ase_to_ovito
        from ovito.modifiers import DislocationAnalysisModifier
        from ovito.pipeline import Pipeline, StaticSource
    except ImportError as error:
        raise ImportError(
            f"dislocation_lines needs OVITO: pip install 'ase-qmmm[analysis]' ({error})"
        ) from error
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    repeats = [
        int(np.ceil(_SHORTEST_PERIOD / length)) if periodic and length < _SHORTEST_PERIOD else 1
        for length, periodic in zip(bare.cell.lengths(), bare.pbc, strict=True)
    ]
    bare = bare.repeat(repeats)
    pipeline = Pipeline(source=StaticSource(data=ase_to_ovito(bare)))
    pipeline.modifiers.append(
        DislocationAnalysisModifier(
            input_crystal_structure=getattr(DislocationAnalysisModifier.Lattice, _LATTICES[lattice])
        )
    )
    copies = int(np.prod(repeats))
    return [
        DislocationLine(
            np.array(line.true_burgers_vector),
            np.array(line.spatial_burgers_vector),
            np.array(line.points),
            float(line.length) / copies,
        )
        for line in pipeline.compute().dislocations.lines
    ]
