"""Potentials from files in the formats of DYNAMO: funcfl, setfl and its Finnis-Sinclair variant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from matscipy.calculators.eam.io import read_eam

from .pieces import Pieces, lammps_cubic, spline
from .potential import TabulatedPotential

__all__ = ["FORMATS", "INTERPOLATIONS", "is_potential_file", "read_potential"]

#: Endings of file names, and what matscipy calls the formats.
FORMATS = {
    ".eam.alloy": "eam/alloy",
    ".eam.fs": "eam/fs",
    ".eam": "eam",
    ".alloy": "eam/alloy",
    ".fs": "eam/fs",
}
INTERPOLATIONS = ("spline", "lammps")

# Å, over which a table that does not end at zero is led there.
WIDTH = 0.5


def is_potential_file(potential: str | os.PathLike[str]) -> bool:
    """Whether a file is meant: a path object, or a string with the ending of a file."""
    return not isinstance(potential, str) or potential.lower().endswith(tuple(FORMATS))


def read_potential(path: str | os.PathLike[str], interpolation: str = "spline") -> TabulatedPotential:
    """Potential from a file ``.eam.alloy`` (setfl), ``.eam.fs`` (Finnis–Sinclair) or ``.eam`` (funcfl).

    Parameters
    ----------
    path : str or os.PathLike
    interpolation : {"spline", "lammps"}
        See :class:`~ase_qmmm.EAM`.

    Raises
    ------
    FileNotFoundError
    ValueError
        Unknown ending; a file that does not hold what its format says.
    """
    path = Path(path)
    kind = next((k for ending, k in FORMATS.items() if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise ValueError(f"potential: got {str(path)!r}, expected a file that ends in {', '.join(FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"potential: no file {str(path)!r}")
    try:
        source, parameters, embedding, density, pair = read_eam(str(path), kind=kind)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"potential: {path} is not a file of the format {kind}: {error}") from error
    _check_tables(path, parameters, {"F": embedding, "density": density, "pair": pair})
    symbols = tuple(chemical_symbols[int(z)] for z in parameters.atomic_numbers)
    size = range(len(symbols))
    cutoff, step = float(parameters.cutoff), float(parameters.distance_grid_spacing)
    rho_step = float(parameters.density_grid_spacing)

    make: Callable[[np.ndarray], Pieces]
    if interpolation == "lammps":
        # LAMMPS leaves the last node of a funcfl file out.
        kept = slice(None, -1) if kind == "eam" else slice(None)
        embeddings = [Pieces(lammps_cubic(f[kept], rho_step), rho_step, linear=True) for f in embedding]

        def make(values: np.ndarray) -> Pieces:
            return Pieces(lammps_cubic(values[kept], step), step)
    else:
        embeddings = [spline(f, rho_step) for f in embedding]

        def make(values: np.ndarray) -> Pieces:
            return spline(values, step, cutoff, min(WIDTH, cutoff / 10))

    if kind == "eam/fs":
        # The file lists what a species gives to each of the others.
        given = [[make(density[b, a]) for b in size] for a in size]
    else:
        own = [make(f) for f in density]
        given = [own for _ in size]
    half = {(a, b): make(pair[a, b]) for a in size for b in range(a + 1)}
    if interpolation == "spline":
        cutoff = half[0, 0].end
    pairs = [[half[max(a, b), min(a, b)] for b in size] for a in size]
    return TabulatedPotential(path.name, source, symbols, cutoff, embeddings, given, pairs)


def _check_tables(path: Path, parameters: object, tables: dict[str, np.ndarray]) -> None:
    """Refuse tables that no interpolation can be made of."""
    for name in ("cutoff", "distance_grid_spacing", "density_grid_spacing"):
        value = float(getattr(parameters, name))
        if not np.isfinite(value) or value <= 0:
            raise ValueError(f"potential: {path} has {name} = {value}, expected a positive number")
    for name, values in tables.items():
        if values.shape[-1] < 8:
            raise ValueError(
                f"potential: {path} has {values.shape[-1]} values of {name}, expected at least 8"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"potential: {path} has values of {name} that are not finite")
