"""ACE models as files of LAMMPS: the clusters for pair_style pace, pair functions and core as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ..errors import check_positive
from ..files import write_atomically
from .basis import ACEBasis
from .coupling import to_real
from .functions import list_functions
from .radial import Radial
from .tables import MINIMUM_DISTANCE
from .yace_file import Bond
from .yace_radial import bond_functions

__all__ = ["LAMMPSExport", "export_potential"]

# Sizes of the Chebyshev basis that are tried, and relative singular values that a fit leaves out.
_SIZES = (20, 30, 40, 50, 60, 80, 100)
_SMALL = 1e-14
# Å, between the rows of tables; cubic splines of LAMMPS are then right to about 1e-9 of their size.
_TABLE_SPACING = 0.001
# Å, of the look-up tables that LAMMPS makes of radial functions.
_SPLINE_BINS = 0.001


@dataclass(frozen=True)
class LAMMPSExport:
    """What :meth:`.ACEPotential.export_lammps` wrote.

    Attributes
    ----------
    files : tuple of Path
        The ``.yace`` file and, if the model has pair functions or a core, the ``.table`` beside it.
    radial_error, slope_error : float
        Largest error of any radial function R_n (1) and of its slope (1/Å), on a fine grid.
    n_radial_basis : int
        Size of the Chebyshev basis.
    commands : str
        Lines of LAMMPS's input that use the files, atom types in the order of the elements of the basis.
    """

    files: tuple[Path, ...]
    radial_error: float
    slope_error: float
    n_radial_basis: int
    commands: str


def export_potential(
    path: str | Path,
    basis: ACEBasis,
    coefficients: np.ndarray,
    reference_energies: np.ndarray,
    tolerance: float,
) -> LAMMPSExport:
    """See :meth:`.ACEPotential.export_lammps`."""
    target = Path(path)
    if target.suffix != ".yace":
        raise ValueError(f"path: got {target.name!r}, expected a name that ends in .yace, as LAMMPS does")
    check_positive("tolerance", tolerance)
    fits, error, slope_error = _fit(basis, tolerance)
    yace = "".join(f"{line}\n" for line in _yace_lines(basis, coefficients, reference_energies, fits))
    files = [target]
    table = target.with_suffix(".table")
    if basis._n_pair or basis.parameters["core"]:
        lines = _table_lines(basis, coefficients)
        write_atomically(table, lambda p: p.write_text("".join(lines), encoding="utf-8"))
        files.append(table)
    write_atomically(target, lambda p: p.write_text(yace, encoding="utf-8"))
    commands = _commands(basis, target, table if len(files) > 1 else None)
    return LAMMPSExport(tuple(files), error, slope_error, fits[0][0].coefficients.shape[2], commands)


# -- radial functions ----------------------------------------------------------------------------------------

# The bond without its R_nl, and the expansion (n, k) of R_n.
_Fit = tuple[Bond, np.ndarray]

# Elements, n and l of the factors of a function.
_Slots = tuple[tuple[int, ...], ...]


def _fit(basis: ACEBasis, tolerance: float) -> tuple[list[_Fit], float, float]:
    """Expansions for all pairs of elements in the smallest basis that reaches the tolerance."""
    count = int(basis._channels.n_max.max())
    best = np.inf
    for size in _SIZES:
        results = [_expand(radial, count, size) for radial in basis.radials]
        error = max(e for _, e, _ in results)
        best = min(best, error)
        if error <= tolerance:
            return [f for f, _, _ in results], error, max(s for _, _, s in results)
    raise ValueError(
        f"tolerance: the Chebyshev basis of LAMMPS gives the radial functions to {best:.1e}, not to the "
        f"{tolerance:g} asked for; functions that are smooth between the cutoffs (envelope of at least 3, or "
        "inner_cutoff 0 with even p and q) converge, else ask for less"
    )


def _expand(radial: Radial, count: int, size: int) -> tuple[_Fit, float, float]:
    """R_n between the cutoffs as the inner switch times Chebyshev polynomials; errors of R_n and slope.

    The inner switch of the file rises over the whole range between the cutoffs: R_n over the switch is
    analytic there, where the switch and an envelope of at least third order go to zero alike.
    """
    rc, inner = radial.cutoff, radial.inner
    bond = Bond(
        "ChebPow", 1.0, np.zeros((0, 1, size)), rc, 0.01, rc if inner else 0.0, rc - inner if inner else 0.0,
        0.0, 1.0, True,
    )  # fmt: skip
    low = max(inner, MINIMUM_DISTANCE)
    r = low + (rc - low) * 0.5 * (1 + np.cos(np.pi * (np.arange(4 * size) + 0.5) / (4 * size)))
    g = bond_functions(bond, r, 0)[0][0]
    c = np.linalg.lstsq(g.T, radial.cluster(r, 0)[0, :count].T, rcond=_SMALL)[0].T
    # Distances that the fit has not seen.
    r = np.linspace(low, rc, 1501)[1:-1]
    difference = np.einsum("nk,dkr->dnr", c, bond_functions(bond, r, 1)[0]) - radial.cluster(r, 1)[:, :count]
    error, slope_error = np.abs(difference).max(axis=(1, 2), initial=0.0)
    return (bond, c), float(error), float(slope_error)


# -- the .yace file ------------------------------------------------------------------------------------------


def _list(values: np.ndarray | list[int] | tuple[int, ...]) -> str:
    """A flow sequence; numbers with all their digits."""
    return "[" + ", ".join(repr(v) for v in np.asarray(values).ravel().tolist()) + "]"


def _yace_lines(
    basis: ACEBasis, coefficients: np.ndarray, references: np.ndarray, fits: list[_Fit]
) -> Iterator[str]:
    yield f"elements: [{', '.join(basis.elements)}]"
    yield f"E0: {_list(references)}"
    yield f"deltaSplineBins: {_SPLINE_BINS}"
    yield "embeddings:"
    for z in range(len(basis.elements)):
        yield (
            f"  {z}: {{ndensity: 1, FS_parameters: [1.0, 1.0], npoti: FinnisSinclair, "
            "rho_core_cutoff: 100000.0, drho_core_cutoff: 250.0}"
        )
    yield "bonds:"
    l_max = basis._channels.l_max
    for a, b in product(range(len(basis.elements)), repeat=2):
        bond, c = fits[basis._pair_index[a, b]]
        rows = ", ".join("[" + ", ".join([_list(row)] * (l_max + 1)) + "]" for row in c)
        yield (
            f"  [{a}, {b}]: {{nradmax: {len(c)}, lmax: {l_max}, nradbasemax: {c.shape[1]}, "
            f"radbasename: {bond.basis}, radparameters: [{bond.parameter!r}], radcoefficients: [{rows}], "
            f"prehc: 0.0, lambdahc: 1.0, rcut: {bond.cutoff!r}, dcut: {bond.cutoff_width!r}, "
            f"rcut_in: {bond.inner_cutoff!r}, dcut_in: {bond.inner_width!r}, inner_cutoff_type: distance}}"
        )
    yield "functions:"
    for z in range(len(basis.elements)):
        lines = list(_function_lines(basis, coefficients, z, fits))
        yield f"  {z}:" + ("" if lines else " []")
        yield from lines


def _function_lines(
    basis: ACEBasis, coefficients: np.ndarray, centre: int, fits: list[_Fit]
) -> Iterator[str]:
    """Functions of one centre element: those of equal slots are one."""
    of_centre = coefficients[centre * basis._n_cluster : (centre + 1) * basis._n_cluster]
    tensors: dict[_Slots, np.ndarray] = {}
    for (f, tensor), c in zip(
        list_functions(len(basis.elements), basis.order, basis.degree), of_centre, strict=True
    ):
        labels = list(zip(f.neighbours, f.n, f.l, strict=True))
        order = sorted(range(f.order), key=labels.__getitem__)
        slots = tuple(zip(*(labels[t] for t in order), strict=True))
        tensors[slots] = tensors.get(slots, 0.0) + float(c) * tensor.transpose(order)
    # Rank one takes the Chebyshev functions themselves.
    for z in range(len(basis.elements)):
        expansion = fits[basis._pair_index[centre, z]][1]
        ones = [(s[1][0], float(t[0])) for s, t in tensors.items() if s[0] == (z,)]
        for k, c in enumerate(sum(c * expansion[n - 1] for n, c in ones) if ones else ()):
            yield _function_line(centre, ((z,), (k + 1,), (0,)), [(0,)], [float(c)])
    for slots, tensor in sorted(tensors.items(), key=lambda item: (len(item[0][0]), item[0])):
        if len(slots[0]) > 1 and tensor.any():
            yield _function_line(centre, slots, *_half(slots, tensor))


def _half(slots: _Slots, tensor: np.ndarray) -> tuple[list[tuple[int, ...]], list[float]]:
    """Products of complex projections of a tensor of real ones, one of each {m, -m} and of each exchange."""
    for l in slots[2]:
        tensor = np.tensordot(tensor, to_real(l), axes=(0, 0))
    alike = list(zip(*slots, strict=True))
    small = 1e-14 * np.abs(tensor).max()
    terms: dict[tuple[int, ...], float] = {}
    for place in np.argwhere(np.abs(tensor) > small).tolist():
        m = [i - l for i, l in zip(place, slots[2], strict=True)]
        # Equal slots stand side by side; the two forms have the same real part.
        forms = [tuple(v for _, v in sorted(zip(alike, s, strict=True))) for s in (m, [-v for v in m])]
        key = max(forms)
        terms[key] = terms.get(key, 0.0) + float(tensor[tuple(place)].real)
    kept = {m: c for m, c in sorted(terms.items()) if abs(c) > small}
    return list(kept), list(kept.values())


def _function_line(centre: int, slots: _Slots, ms: list[tuple[int, ...]], values: list[float]) -> str:
    z, n, l = slots
    return (
        f"    - {{mu0: {centre}, rank: {len(z)}, ndensity: 1, num_ms_combs: {len(ms)}, mus: {_list(z)}, "
        f"ns: {_list(n)}, ls: {_list(l)}, ms_combs: {_list(np.array(ms))}, "
        f"ctildes: {_list(np.array(values))}}}"
    )


# -- the pair potential --------------------------------------------------------------------------------------


def _table_lines(basis: ACEBasis, coefficients: np.ndarray) -> list[str]:
    """Energies (eV) and forces (eV/Å) of the pair functions with the core, for pair_style table."""
    of_pairs = coefficients[basis._n_cluster * len(basis.elements) :].reshape(len(basis._pairs), -1)
    count = round((basis.cutoff - MINIMUM_DISTANCE) / _TABLE_SPACING) + 1
    r = np.linspace(MINIMUM_DISTANCE, basis.cutoff, count)
    lines = ["# UNITS: metal\n"]
    for k, (a, b) in enumerate(basis._pairs):
        radial, c = basis.radials[k], of_pairs[k]
        f = np.einsum("n,kng->kg", c, radial.pair(r, 1)[:, : len(c)]) + radial.core_energy(r, 1)
        lines.append(f"\n{basis.elements[a]}_{basis.elements[b]}\n")
        lines.append(f"N {count} R {MINIMUM_DISTANCE!r} {basis.cutoff!r}\n\n")
        rows = zip(r.tolist(), f[0].tolist(), (-f[1]).tolist(), strict=True)
        lines += [f"{i + 1} {x!r} {e!r} {p!r}\n" for i, (x, e, p) in enumerate(rows)]
    return lines


def _commands(basis: ACEBasis, yace: Path, table: Path | None) -> str:
    names = " ".join(basis.elements)
    if table is None:
        return f"units metal\npair_style pace\npair_coeff * * {yace.name} {names}\n"
    lines = [
        "units metal",
        "pair_style hybrid/overlay pace table spline 20000",
        f"pair_coeff * * pace {yace.name} {names}",
    ]
    for a, b in basis._pairs:
        section = f"{basis.elements[a]}_{basis.elements[b]}"
        lines.append(f"pair_coeff {a + 1} {b + 1} table {table.name} {section} {basis.cutoff!r}")
    return "\n".join(lines) + "\n"
