"""EAM derivatives at the crystal against paths of displaced atoms, the closed form against its tables."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS
from helpers import assert_derivative, strained
from lammps_reference import FILES, unpacked
from matscipy.calculators.eam.io import read_eam

from ase_qmmm import EAM, Crystal, TaylorForces
from ase_qmmm.eam.pieces import Pieces, lammps_cubic, spline, tail
from ase_qmmm.eam.smoothing import _smoothed
from ase_qmmm.eam.zhou import ZhouPotential, known_symbols
from ase_qmmm.errors import StructureError
from ase_qmmm.symmetry import space_group, stencil_permutation
from ase_qmmm.taylor.site_symmetry import taken, turned

SYSTEMS = {
    "tungsten": (lambda: bulk("W", a=3.1648494), "W-zhou04", (6, 6, 6)),
    "alloy": (
        lambda: Atoms("CuNi", [[0, 0, 0], [1.9, 1.8, 1.75]], cell=[2.6, 2.7, 3.5], pbc=True),
        "Ni-Cu-zhou04",
        (6, 6, 5),
    ),
}


def polynomial_path(function, order, span=0.025, points=13):
    """Derivatives 1 to `order` at zero of ``function(step)`` from a polynomial through points of a path."""
    steps = span * np.linspace(-1, 1, points)
    values = np.array([function(h) for h in steps]).reshape(points, -1)
    fits = [np.polynomial.Polynomial.fit(steps, column, points - 1) for column in values.T]
    return [np.array([fit.deriv(k)(0.0) for fit in fits]) for k in range(1, order + 1)]


def contracted(tensor, u, leading=0):
    """All indices but the leading ones with the displacements u (s, 3)."""
    shaped = tensor.reshape(*tensor.shape[:leading], *(u.size,) * ((tensor.ndim - leading) // 2))
    while shaped.ndim > leading:
        shaped = shaped @ u.ravel()
    return np.atleast_1d(shaped)


def displaced(crystal, repeats, basis, radius, rng):
    """A supercell, one of its atoms of that basis, random displacements of the stencil and of all atoms."""
    atoms = crystal.supercell(repeats)
    match = crystal.match(atoms, radius)
    centre = int(np.flatnonzero(match.basis == basis)[0])
    s = len(crystal.stencil(basis, radius))
    u = rng.uniform(-1, 1, (s, 3))
    moves = np.zeros((len(atoms), 3))
    np.add.at(moves, match.neighbours[centre, :s], u)
    return atoms, centre, u, moves


def along(atoms, moves, h):
    copy = atoms.copy()
    copy.positions += h * moves
    return copy


# Relative to the largest: derivatives of polynomials of degree twelve through energies and forces.
ALLOWED = {1: 1e-8, 2: 1e-7, 3: 1e-6, 4: 1e-4}


@pytest.mark.parametrize(
    ("name", "radius", "order"), [("tungsten", 3.2, 4), ("alloy", 2.75, 4), ("tungsten", np.inf, 3)]
)
def test_site_energies(name, radius, order, rng):
    cell, potential, repeats = SYSTEMS[name]
    crystal, calc = Crystal(cell()), EAM(potential)
    found = calc.site_energy_derivatives(crystal, order, radius)
    for basis in range(crystal.n_basis):
        atoms, l, u, moves = displaced(crystal, repeats, basis, found.cutoffs[1], rng)
        weights = np.eye(len(atoms))[l]

        def slope(h, atoms=atoms, moves=moves, weights=weights):
            return -np.sum(calc.evaluate(along(atoms, moves, h), weights).forces * moves)

        path = [np.atleast_1d(slope(0.0)), *polynomial_path(slope, order - 1)]
        scale = max(float(np.abs(p).max()) for p in path)
        for j in range(1, order + 1):
            exact = contracted(found.tensors[j][basis], u)
            assert np.abs(path[j - 1] - exact).max() < ALLOWED[j] * scale, (basis, j)
        energy = calc.evaluate(atoms).energies[l]
        assert found.energies[basis] == pytest.approx(energy, abs=1e-11)


@pytest.mark.parametrize(
    ("name", "radius", "order"), [("tungsten", 3.2, 3), ("alloy", 2.75, 3), ("tungsten", np.inf, 2)]
)
def test_forces(name, radius, order, rng):
    cell, potential, repeats = SYSTEMS[name]
    crystal, calc = Crystal(cell()), EAM(potential)
    found = calc.force_derivatives(crystal, order, radius)
    if radius == np.inf:
        assert found.cutoffs[1] == 2 * calc.cutoff
        repeats = tuple(crystal.box_for_radius(calc.cutoff * 2))
    for basis in range(crystal.n_basis):
        atoms, l, u, moves = displaced(crystal, repeats, basis, found.cutoffs[1], rng)

        def force(h, atoms=atoms, moves=moves, l=l):
            return calc.evaluate(along(atoms, moves, h)).forces[l]

        path = polynomial_path(force, order)
        for j in range(1, order + 1):
            exact = contracted(found.tensors[j][basis], u, leading=1)
            assert np.abs(path[j - 1] - exact).max() < ALLOWED[j + 1] * np.abs(exact).max(), (basis, j)


def test_symmetry():
    """Tensors turn with the operations of the crystal."""
    crystal, calc = Crystal(bulk("W", a=3.16)), EAM("W-zhou04")
    for found, kind in (
        (calc.site_energy_derivatives(crystal, 3, 4.5), "energy"),
        (calc.force_derivatives(crystal, 2, 4.5), "force"),
    ):
        for j in found.tensors:
            tensor = found.tensors[j][0]
            for op in space_group(crystal)[1:20:6]:
                permutation = stencil_permutation(crystal, op, 0, 4.5)
                picked = taken(tensor, permutation, kind, j)
                assert np.abs(turned(picked, op.rotation.T, kind, j) - tensor).max() < 1e-9
            if j > 1:
                axes = 1 if kind == "force" else 0
                swapped = np.moveaxis(tensor, (axes, axes + 1), (axes + 2, axes + 3))
                assert np.abs(swapped - tensor).max() < 1e-10


def test_derivatives_of_a_table(tmp_path):
    """On a path within one interval of the table, where its functions are polynomials."""
    calc = EAM(unpacked(FILES["NiAl"][0], tmp_path))
    crystal = Crystal(bulk("NiAl", "cesiumchloride", a=2.8321))
    found = calc.site_energy_derivatives(crystal, 3, 2.5)
    s = len(crystal.stencil(0, 2.5))
    atoms, l, _, moves = displaced(crystal, (5, 5, 5), 0, 2.5, np.random.default_rng(1))
    moves *= 0.0
    match = crystal.match(atoms, 2.5)
    u = np.zeros((s, 3))
    u[0] = crystal.stencil(0, 2.5)[0]
    moves[match.neighbours[l, 0]] = u[0]

    def slope(h):
        return -np.sum(calc.evaluate(along(atoms, moves, h), np.eye(len(atoms))[l]).forces * moves)

    path = polynomial_path(slope, 2, span=5e-5, points=5)
    assert slope(0.0) == pytest.approx(contracted(found.tensors[1][0], u)[0], abs=1e-12)
    assert path[0][0] == pytest.approx(contracted(found.tensors[2][0], u)[0], rel=1e-6)
    assert path[1][0] == pytest.approx(contracted(found.tensors[3][0], u)[0], rel=1e-3)


@pytest.mark.parametrize("relaxed", [False, True])
def test_cauchy_born(relaxed, rng):
    """Third order of an alloy without inner equilibrium, and of one with."""
    calc = EAM("Ni-Cu-zhou04")
    cell = SYSTEMS["alloy"][0]()
    if relaxed:
        cell = Crystal.relaxed(bulk("NiCu", "cesiumchloride", a=2.8), calc).unit_cell
        # Off the symmetric place of the second atom a deformation moves it; this one is uniaxial.
        cell.set_cell(cell.cell.array @ np.diag([1.0, 1.0, 1.02]), scale_atoms=True)
    crystal = Crystal(cell)
    found = calc.cauchy_born_derivatives(crystal, 3, relaxed=relaxed)
    strain = random_matrix(rng)
    assert found.energy == pytest.approx(calc.evaluate(cell).energy, abs=1e-11)

    def slope(h):
        deformation = np.eye(3) + h * strain
        pull = -calc.evaluate(strained(cell, strain, h)).virial
        return np.sum(pull @ np.linalg.inv(deformation).T * strain)

    path = [slope(0.0), *(p[0] for p in polynomial_path(slope, 2))]
    for j in (1, 2, 3):
        exact = found.tensors[j]
        for _ in range(j):
            exact = np.tensordot(exact, strain, axes=2)
        # Both atoms are centres of inversion in the second case: no inner displacement.
        assert path[j - 1] == pytest.approx(float(exact), rel=1e-6)


def random_matrix(rng):
    return rng.uniform(-0.3, 0.3, (3, 3))


def test_inner_relaxation(rng):
    """hcp: the two atoms of a sheared cell move against each other."""
    calc = EAM("Ti-zhou04")
    crystal = Crystal.relaxed(bulk("Ti", a=2.93, c=4.7), calc)
    found = calc.cauchy_born_derivatives(crystal, 2, relaxed=True).elastic_constants()
    clamped = calc.cauchy_born_derivatives(crystal, 2).elastic_constants()
    assert clamped[0, 1, 0, 1] - found[0, 1, 0, 1] > 0.01
    strain = np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = 0.5

    def stress(h):
        cell = strained(crystal.unit_cell, strain, h)
        cell.calc = calc
        with BFGS(cell, logfile=None) as optimizer:
            optimizer.run(fmax=1e-10)
        return -calc.evaluate(cell).virial[0, 1] / cell.get_volume()

    assert_derivative(stress, found[0, 1, 0, 1], noise=1e-11, steps=np.array([1e-2, 1e-3, 3e-4, 1e-4]))


def test_force_constants_feed_the_taylor_model():
    calc = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.16), calc)
    model = TaylorForces.from_calculator(calc, crystal, cutoff=2 * calc.cutoff)
    atoms = crystal.supercell(8)
    atoms.rattle(1e-4, seed=2)
    exact = calc.evaluate(atoms).forces
    # The largest force is 2e-3 eV/Å; what is left is of second order.
    assert np.abs(model.evaluate(atoms).forces - exact).max() < 2e-6


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("site_energy_derivatives", {"order": 5}, "order: got 5, expected 1 to 4"),
        ("force_derivatives", {"order": 4}, "order: got 4, expected 1 to 3"),
        ("cauchy_born_derivatives", {"order": 4}, "order: got 4"),
        ("site_energy_derivatives", {"order": 4}, "need .* GB, more than max_memory = 4 GB"),
        ("force_derivatives", {"order": 3}, "need .* GB, more than max_memory"),
        ("site_energy_derivatives", {"cutoff": -1.0}, "cutoff: got -1.0"),
        ("site_energy_derivatives", {"cutoff": np.nan}, "cutoff: got nan"),
        ("force_derivatives", {"cutoff": (5.0, 4.0, 3.0)}, "got 3 radii for 2 orders"),
    ],
)
def test_refused(method, arguments, text):
    with pytest.raises(ValueError, match=text):
        getattr(EAM("W-zhou04"), method)(Crystal(bulk("W")), **arguments)


def test_unknown_species():
    with pytest.raises(StructureError, match="no parameters for Cu"):
        EAM("W-zhou04").force_derivatives(Crystal(bulk("Cu")))


# -- the closed form -----------------------------------------------------------------------------------------

# Structure with the nearest neighbours at r_e, and cohesive energy (eV) of the paper's table of properties.
METALS = {
    "Cu": ("fcc", 3.54),
    "Ag": ("fcc", 2.85),
    "Au": ("fcc", 3.93),
    "Ni": ("fcc", 4.45),
    "Pd": ("fcc", 3.91),
    "Pt": ("fcc", 5.77),
    "Al": ("fcc", 3.58),
    "Pb": ("fcc", 2.02),
    "Fe": ("bcc", 4.29),
    "Mo": ("bcc", 6.81),
    "Ta": ("bcc", 8.09),
    "W": ("bcc", 8.76),
    "Mg": ("hcp", 1.55),
    "Co": ("hcp", 4.41),
    "Ti": ("hcp", 4.87),
    "Zr": ("hcp", 6.36),
}


@pytest.mark.parametrize("symbol", METALS)
def test_parameters(symbol):
    """What ties the twenty numbers of a metal together: equilibrium, density, energy, joints of F."""
    structure, energy = METALS[symbol]
    potential = ZhouPotential((symbol,))
    p = potential._sets[0]
    re = p["re"]
    a = {"fcc": np.sqrt(2) * re, "bcc": 2 / np.sqrt(3) * re, "hcp": re}[structure]
    cell = bulk(symbol, structure, a=a, **({"c": np.sqrt(8 / 3) * re} if structure == "hcp" else {}))
    result = EAM(potential).evaluate(cell)
    assert result.energy / len(cell) == pytest.approx(-energy, abs=5e-4)
    # Pressure times volume per atom in eV; the bulk modulus times the volume is 5 to 30 eV.
    assert abs(np.trace(result.virial)) / 3 / len(cell) < 3e-3
    r = np.linalg.norm(Crystal(cell).stencil(0, potential.cutoff), axis=1)
    assert potential.density(0, 0, r, 0)[0].sum() == pytest.approx(p["rhoe"], rel=5e-5)
    # The pieces of F meet to the digits given; F of no density is zero.
    below, above = (m * p["rhoe"] ** np.arange(len(m)) for m in potential._corrections[0])
    assert np.abs(below[:2]).max() < 1e-6
    assert abs(below[2]) < 2e-5
    assert abs(above[0]) < 1e-6
    assert abs(above[1]) < 1e-4
    assert abs(potential.embedding(0, np.zeros(1), 0)[0, 0]) < 2e-6
    assert known_symbols() == list(METALS)


# Largest differences of r phi (eV Å), density and F (eV) between closed form and table. That of copper comes
# from a program that its authors replaced for its lack of precision.
NOISE = {"W": (1e-13, 1e-13, 1e-14), "Cu": (1e-4, 2e-5, 1e-6)}


@pytest.mark.parametrize("symbol", NOISE)
def test_tables(symbol, tmp_path):
    path = unpacked(FILES[symbol][0], tmp_path)
    _, parameters, embedding, density, pair = read_eam(str(path))
    potential = ZhouPotential((symbol,))
    assert potential.cutoff == pytest.approx(parameters.cutoff, abs=1e-6)
    r = np.arange(density.shape[1]) * parameters.distance_grid_spacing
    # The tables are constant below 0.5 Å; ours end smoothly.
    inside = (r > 0.51) & (r < potential.cutoff - 0.51)
    r = r[inside]
    assert np.abs(r * potential.pair(0, 0, r, 0)[0] - pair[0, 0, inside]).max() < NOISE[symbol][0]
    assert np.abs(potential.density(0, 0, r, 0)[0] - density[0, inside]).max() < NOISE[symbol][1]
    rho = np.arange(embedding.shape[1]) * parameters.density_grid_spacing
    x = rho / potential._sets[0]["rhoe"]
    blended = ((x > 0.8) & (x < 0.85)) | ((x >= 1.15) & (x < 1.2))
    difference = np.abs(potential.embedding(0, rho, 0)[0] - embedding[0])
    assert difference[~blended].max() < NOISE[symbol][2]
    assert difference[blended].max() < 1e-6


def test_alloy():
    """Mixed pairs are those of the elements where both are the same, and symmetric."""
    r = np.linspace(2.0, 4.9, 50)
    both, other = ZhouPotential(("Cu", "Ni")), ZhouPotential(("Ni", "Cu"))
    assert np.abs(both.pair(0, 1, r, 3) - other.pair(0, 1, r, 3)).max() < 1e-12
    copper, nickel = ZhouPotential(("Cu",)), ZhouPotential(("Ni",))
    ratio = nickel.density(0, 0, r, 0) / copper.density(0, 0, r, 0)
    mixed = 0.5 * (ratio * copper.pair(0, 0, r, 0) + nickel.pair(0, 0, r, 0) / ratio)
    near = r < nickel.cutoff - 0.5
    assert np.abs(both.pair(0, 1, r, 0) - mixed)[:, near].max() < 1e-13


def test_smooth_pieces():
    """Functions and embedding of the closed form against their derivatives, over joints and cutoff."""
    potential = ZhouPotential(("W",))
    for points, function in (
        (np.linspace(1.5, 6.3, 300), lambda r, k: potential.pair(0, 0, r, k)),
        (np.linspace(1.5, 6.3, 300), lambda r, k: potential.density(0, 0, r, k)),
        (np.linspace(20.0, 50.0, 300), lambda x, k: potential.embedding(0, x, k)),
    ):
        h = 1e-4
        quotient = (function(points + h, 2) - function(points - h, 2)) / (2 * h)
        assert np.abs(quotient[:2] - function(points, 2)[1:]).max() < 1e-5 * np.abs(function(points, 2)).max()
    joint = np.array([0.85, 1.15])[:, None] * 37.234847 * np.array([1 - 1e-12, 1 + 1e-12])
    jump = np.diff(potential.embedding(0, joint, 2), axis=2)[..., 0]
    assert np.abs(jump[:2]).max() < 1e-10
    assert abs(jump[2, 0]) < 1e-10
    assert abs(jump[2, 1]) == pytest.approx(2.4e-4, rel=0.02)  # published: the curvature jumps there


# -- pieces --------------------------------------------------------------------------------------------------


def test_splines_reproduce_quintics():
    quintic = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.3, -0.1, 0.02])
    nodes = np.linspace(0.0, 3.0, 31)
    pieces = spline(quintic(nodes), nodes[1])
    x = np.linspace(0.0, 2.999, 50)
    found = pieces.derivatives(x, 5)
    for k in range(6):
        expected = (quintic.deriv(k) if k else quintic)(x)
        assert np.abs(found[k] - expected).max() < 10.0 ** (k - 12) * 30
    beyond = pieces.derivatives(np.array([4.0]), 2)[:, 0]
    assert beyond == pytest.approx([quintic(3.0) + quintic.deriv()(3.0), quintic.deriv()(3.0), 0.0], abs=1e-8)


def test_spline_with_a_cutoff_inside_the_table():
    nodes = np.linspace(0.0, 4.0, 401)
    pieces = spline(np.exp(-nodes), nodes[1], cutoff=3.1415, width=0.5)
    assert pieces.end == pytest.approx(3.1415)
    x = np.linspace(0.0, 2.6, 100)
    assert np.abs(pieces.derivatives(x, 1) - np.array([np.exp(-x), -np.exp(-x)])).max() < 1e-9
    assert np.abs(pieces.derivatives(np.array([3.1415 - 1e-9]), 1)).max() < 1e-7
    assert not pieces.derivatives(np.array([3.2]), 3).any()


def test_lammps_pieces_are_once_differentiable(rng):
    values = rng.normal(size=20)
    pieces = Pieces(lammps_cubic(values, 0.5), 0.5)
    nodes = np.arange(1, 19) * 0.5
    assert pieces.derivatives(nodes, 0)[0] == pytest.approx(values[1:-1])
    jump = pieces.derivatives(nodes + 1e-9, 1) - pieces.derivatives(nodes - 1e-9, 1)
    assert np.abs(jump).max() < 1e-7


@pytest.mark.parametrize("width", [0.5, -0.3])
def test_tail(width):
    mismatch = np.array([0.3, -1.0, 4.0, 2.0])
    end = np.array([2.0])
    assert tail(mismatch, 2.0, width, end, 3)[:, 0] == pytest.approx(mismatch)
    start = np.array([2.0 - width * (1 - 1e-9)])
    assert np.abs(tail(mismatch, 2.0, width, start, 3)).max() < 1e-5
    assert not tail(mismatch, 2.0, width, np.array([2.0 - 1.1 * width, 2.0 + 0.1 * width]), 3).any()


def test_smoothing_of_a_rounded_table(tmp_path):
    """Ten decimals at steps of 6e-4 Å: third and fourth derivatives against the closed form."""
    closed = ZhouPotential(("W",))
    step, cutoff = 6e-4, 6.0
    values = closed.density(0, 0, np.arange(10001) * step, 0)[0]
    rounded = spline(np.round(values, 10), step, cutoff, 0.5)
    r = np.array([2.74, 3.165, 4.476])
    exact = closed.density(0, 0, r, 4)
    smooth, wide = (_smoothed(rounded.derivatives, r, 4, width) for width in (0.1, 0.2))
    raw = rounded.derivatives(r, 4)
    scale = np.abs(exact).max(axis=1)[:, None]
    assert np.array_equal(smooth[:3], raw[:3])
    # The term of 20th power bends at 3.1 Å: what the polynomial cannot follow grows with the width.
    assert (np.abs(smooth - exact) / scale)[3:].max() < 0.005
    assert (np.abs(wide - exact) / scale)[3:].max() < 0.05
    assert (np.abs(raw - exact) / scale)[4].max() > 10.0

    path = unpacked(FILES["NiAl"][0], tmp_path)
    atoms = bulk("NiAl", "cesiumchloride", a=2.85) * 3
    atoms.rattle(0.1, seed=1)
    bare, other = EAM(path), EAM(path, smoothing=0.2)
    assert np.array_equal(bare.evaluate(atoms).forces, other.evaluate(atoms).forces)
    crystal = Crystal(bulk("NiAl", "cesiumchloride", a=2.832))
    tensors = [calc.site_energy_derivatives(crystal, 3, 3.0).tensors for calc in (bare, other)]
    assert np.array_equal(tensors[0][2][0], tensors[1][2][0])
    assert not np.array_equal(tensors[0][3][0], tensors[1][3][0])
    assert "smoothing=0.2" in repr(other)


@pytest.mark.parametrize(
    ("potential", "smoothing", "message"),
    [
        ("W-zhou04", 0.2, "for files"),
        ("NiAl", -0.1, "smoothing"),
        ("NiAl", np.nan, "smoothing"),
        ("NiAl", 2.0, "quarter of the cutoff"),
    ],
)
def test_smoothing_refused(potential, smoothing, message, tmp_path):
    source = unpacked(FILES["NiAl"][0], tmp_path) if potential == "NiAl" else potential
    with pytest.raises(ValueError, match=message):
        EAM(source, smoothing=smoothing)
