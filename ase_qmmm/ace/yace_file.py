"""Linear potentials in files of ML-PACE (``.yace``): read as data, with every field checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from .yaml_tree import Node, load_yaml

__all__ = ["Bond", "ClusterTerm", "YACEFile", "read_yace_file"]

# Bytes; files of ML-PACE take up to a few MB, those with tabulated functions are not read here.
MAX_SIZE = 50_000_000
# Entries of the dense tensor of one function.
_MAX_TENSOR = 2_000_000

RADIAL_BASES = ("ChebExpCos", "ChebPow", "SBessel", "TEST_SBessel")


@dataclass(frozen=True)
class Bond:
    """Radial functions of one ordered pair of elements.

    Attributes
    ----------
    basis : str
        Name of the functions g_k.
    parameter : float
        Their exponent.
    coefficients : ndarray, shape (n, l, k)
        ``R_nl = sum_k coefficients[n, l, k] g_k``.
    cutoff, cutoff_width : float
        Å.
    inner_cutoff, inner_width : float
        Å; below, g_k are switched off and the core on, if `by_distance`.
    core, core_exponent : float
        eV Å and 1/Å^2: the core is ``core exp(-core_exponent r^2) / r`` with its switches.
    by_distance : bool
    """

    basis: str
    parameter: float
    coefficients: np.ndarray
    cutoff: float
    cutoff_width: float
    inner_cutoff: float
    inner_width: float
    core: float
    core_exponent: float
    by_distance: bool


@dataclass(frozen=True)
class ClusterTerm:
    """``sum_c coefficients[c] Re prod_t A[elements[t], n[t], l[t], m[c, t]]`` (eV), n from 1."""

    elements: tuple[int, ...]
    n: tuple[int, ...]
    l: tuple[int, ...]
    m: np.ndarray
    coefficients: np.ndarray


@dataclass(frozen=True)
class YACEFile:
    """What a file of a linear potential says.

    Attributes
    ----------
    elements : tuple of str
    reference_energies : ndarray, shape (n_elements,)
        eV.
    core_limits : ndarray, shape (n_elements,)
        Sum of cores around an atom (eV) up to which the expansion acts in full.
    bonds : dict
        By ordered pair of element numbers.
    functions : tuple of list of ClusterTerm
        By centre element; coefficients include the weight of the embedding function.
    """

    elements: tuple[str, ...]
    reference_energies: np.ndarray
    core_limits: np.ndarray
    bonds: dict[tuple[int, int], Bond]
    functions: tuple[list[ClusterTerm], ...]


def read_yace_file(path: str | Path) -> YACEFile:
    """Read and check a file; `ValueError` says what is wrong and where."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"path: there is no file {str(source)!r}")
    size = source.stat().st_size
    if size > MAX_SIZE:
        raise ValueError(
            f"{source}: {size} bytes, more than the {MAX_SIZE} read here; files with tabulated radial "
            "functions (ACE.jl splines) are not supported"
        )
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{source}: not a text file, expected the YAML of ML-PACE (.yace)") from None
    if text.lstrip().startswith("nelements="):
        raise ValueError(
            f"{source}: the old text format of ML-PACE (.ace); convert it to .yace with pacemaker's tools"
        )
    try:
        return _interpret(Node(load_yaml(text), "file"))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _interpret(root: Node) -> YACEFile:
    if "species" in root:
        raise ValueError("a pacemaker file of B-functions (.yaml); convert it with: pace_yaml2yace")
    elements = tuple(e.text() for e in root["elements"].list())
    unknown = [e for e in elements if not atomic_numbers.get(e, 0)]
    if not elements or unknown or len(set(elements)) < len(elements):
        raise root["elements"].error("chemical symbols, each once")
    n = len(elements)
    bonds = _bonds(root["bonds"], n)
    weights, limits = np.empty(n), np.empty(n)
    for z in range(n):
        weights[z], limits[z] = _embedding(root["embeddings"][str(z)])
    functions = []
    for z in range(n):
        items = root["functions"][str(z)].list()
        functions.append([_term(f, z, bonds, float(weights[z])) for f in items])
    return YACEFile(elements, root["E0"].numbers(n), limits, bonds, tuple(functions))


def _embedding(node: Node) -> tuple[float, float]:
    """Weight of the density, and the limit of the core."""
    name = node["npoti"].text()
    if name not in ("FinnisSinclair", "FinnisSinclairShiftedScaled"):
        raise node["npoti"].error("FinnisSinclair or FinnisSinclairShiftedScaled")
    densities = node["ndensity"].whole(1)
    parameters = node["FS_parameters"].numbers(2 * densities)
    if densities != 1:
        raise ValueError(
            f"{node.where}.ndensity: got {densities}; only linear potentials, of one density, are supported"
        )
    if parameters[1] != 1.0:
        raise ValueError(
            f"{node.where}.FS_parameters: got the exponent {parameters[1]:g}; only linear potentials "
            "(exponent 1) are supported"
        )
    low = node["rho_core_cutoff"].number() - node["drho_core_cutoff"].number(0.0)
    if low <= 0:
        raise node["rho_core_cutoff"].error("more than drho_core_cutoff")
    return float(parameters[0]), low


def _bonds(node: Node, n_elements: int) -> dict[tuple[int, int], Bond]:
    bonds: dict[tuple[int, int], Bond] = {}
    kinds = set()
    for a in range(n_elements):
        for b in range(n_elements):
            key = (str(a), str(b))
            if key not in node.map():
                raise ValueError(f"bonds: lacks [{a}, {b}]; every ordered pair of elements is needed")
            bond = Node(node.map()[key], f"bonds[{a}, {b}]")
            kinds.add(bond["inner_cutoff_type"].text() if "inner_cutoff_type" in bond else "density")
            bonds[a, b] = _bond(bond)
    if len(kinds) > 1:
        raise ValueError(f"bonds: inner_cutoff_type is {' and '.join(sorted(kinds))}; expected one for all")
    return bonds


def _bond(node: Node) -> Bond:
    name = node["radbasename"].text()
    if name == "ChebLinear":
        raise node["radbasename"].error("functions that vanish at the cutoff; these jump there")
    if name not in RADIAL_BASES:
        raise node["radbasename"].error(f"one of {', '.join(RADIAL_BASES[:3])}; others are not supported")
    kind = node["inner_cutoff_type"].text() if "inner_cutoff_type" in node else "density"
    if kind not in ("density", "distance"):
        raise node["inner_cutoff_type"].error(
            "density or distance (with zbl the energy is not a sum of an expansion and pairs)"
        )
    n_max, n_base = node["nradmax"].whole(0, 1000), node["nradbasemax"].whole(1, 1000)
    l_max = node["lmax"].whole(0, 50)
    rows = node["radcoefficients"].list()
    if len(rows) != n_max:
        raise ValueError(f"{node.where}.radcoefficients: {len(rows)} entries, expected nradmax = {n_max}")
    coefficients = np.zeros((n_max, l_max + 1, n_base))
    for i, row in enumerate(rows):
        columns = row.list()
        if len(columns) != l_max + 1:
            raise ValueError(f"{row.where}: {len(columns)} entries, expected lmax + 1 = {l_max + 1}")
        for l, column in enumerate(columns):
            coefficients[i, l] = column.numbers(n_base)
    parameters = node["radparameters"].numbers()
    if not len(parameters):
        raise node["radparameters"].error("at least one number")
    if name in ("ChebExpCos", "ChebPow") and not 0 < abs(parameters[0]) < 100:
        raise node["radparameters"].error("an exponent that is not 0")
    if name == "ChebPow" and parameters[0] < 1:
        raise node["radparameters"].error("an exponent of at least 1: forces diverge at the cutoff else")
    cutoff = node["rcut"].number(0.0)
    width = node["dcut"].number(0.0)
    if not 0.2 <= cutoff <= 50.0:
        raise node["rcut"].error("0.2 to 50 Å")
    if width > cutoff:
        raise node["dcut"].error("at most rcut")
    inner = node["rcut_in"].number(0.0) if "rcut_in" in node else 0.0
    inner_width = node["dcut_in"].number(0.0) if "dcut_in" in node else 0.0
    if inner - inner_width > 0 and (kind == "density" or inner_width == 0):
        raise ValueError(
            f"{node.where}.rcut_in: radial functions would jump to zero at {inner - inner_width:g} Å; "
            "expected rcut_in 0, or inner_cutoff_type distance with dcut_in > 0"
        )
    return Bond(
        name,
        float(parameters[0]),
        coefficients,
        cutoff,
        width,
        inner,
        inner_width,
        abs(node["prehc"].number()),
        abs(node["lambdahc"].number()),
        kind == "distance",
    )


def _term(node: Node, centre: int, bonds: dict[tuple[int, int], Bond], weight: float) -> ClusterTerm:
    n_elements = round(len(bonds) ** 0.5)
    if node["mu0"].whole(0) != centre:
        raise node["mu0"].error(str(centre))
    if node["ndensity"].whole(1) != 1:
        raise node["ndensity"].error("1: only linear potentials are supported")
    rank, count = node["rank"].whole(1, 8), node["num_ms_combs"].whole(1)
    elements = node["mus"].wholes(0, n_elements - 1, rank)
    n, l = node["ns"].wholes(1, 10000, rank), node["ls"].wholes(0, 50, rank)
    m = np.array(node["ms_combs"].wholes(-50, 50, rank * count)).reshape(count, rank)
    coefficients = weight * node["ctildes"].numbers(count)
    for z, i, k in zip(elements, n, l, strict=True):
        n_max, n_l, n_base = bonds[centre, z].coefficients.shape
        if (rank == 1 and (i > n_base or k > 0)) or (rank > 1 and (i > n_max or k >= n_l)):
            raise ValueError(f"{node.where}: n = {i}, l = {k} are beyond those of bonds[{centre}, {z}]")
    if (np.abs(m) > np.array(l)).any():
        raise ValueError(f"{node.where}.ms_combs: |m| exceeds l")
    if m.sum(axis=1).any():
        raise ValueError(f"{node.where}.ms_combs: m do not sum to zero, the energy would turn with the axes")
    if np.prod([2.0 * k + 1 for k in l]) > _MAX_TENSOR:
        raise ValueError(f"{node.where}: rank and l give more than {_MAX_TENSOR} products")
    return ClusterTerm(elements, n, l, m, coefficients)
