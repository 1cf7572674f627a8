"""Derivatives at the crystal against differences in supercells that are the same on their k-points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from helpers import assert_derivative, moved

from ase_qmmm import Crystal, TightBinding, fermi_level
from ase_qmmm.errors import NumericsError, StructureError
from ase_qmmm.symmetry import space_group, stencil_permutation
from ase_qmmm.taylor.site_symmetry import taken, turned
from ase_qmmm.tightbinding import Hamiltonian, force_derivatives, site_energy_derivatives
from ase_qmmm.tightbinding.expansion import Expansion, repulsive_derivatives, repulsive_fourth
from ase_qmmm.tightbinding.fourth import fourth_derivatives
from ase_qmmm.tightbinding.greens import CrystalMatrices
from ase_qmmm.tightbinding.perturbation import Region
from ase_qmmm.tightbinding.poles import fermi_poles
from ase_qmmm.tightbinding.radial import exponential, half_cosine, leibniz, polynomial
from ase_qmmm.tightbinding.slater_koster import shell_channels
from ase_qmmm.tightbinding.traces import Source


class Salt(Hamiltonian):
    """A made-up model of two species with different orbitals, everything the base class has."""

    name = "salt"
    symbols = ("Na", "Cl")
    shells = ((0,), (0, 1))
    n_electrons = np.array([1.0, 7.0])
    cutoff = 4.2

    def _fade(self, r, order):
        return half_cosine(r, 2.0, self.cutoff, order)

    def two_centre(self, a, b, distances, order, spin=0):
        out = {}
        for l1 in self.shells[a]:
            for l2 in self.shells[b]:
                size = len(shell_channels(l1, l2))
                f = leibniz(
                    exponential(0.8 + 0.1 * abs(l1 - l2), distances, order), self._fade(distances, order)
                )
                scale = np.array([-3.0, 1.2])[:size, None, None] * (1.0 + 0.3 * (l1 + l2))
                out[l1, l2] = (scale * f, -0.06 * scale * f)
        return out

    def density(self, centre, neighbour, distances, order, spin=0):
        rate = 1.1 + 0.2 * centre + 0.1 * neighbour
        return leibniz(exponential(rate, distances, order), self._fade(distances, order))

    def onsite(self, centre, neighbour, rho, order, spin=0):
        n = sum(2 * l + 1 for l in self.shells[centre])
        shift = (-4.0 if centre else 1.0) if centre == neighbour else 0.0
        value = polynomial(np.array([shift, 3.0, -1.0 + 0.5 * neighbour, 0.4, 0.1]), rho, order)
        return np.repeat(value[:, :, None], n, axis=2)

    def repulsive_density(self, centre, neighbour, distances, order):
        return leibniz(exponential(0.9 + 0.1 * centre, distances, order), self._fade(distances, order))

    def repulsive_energy(self, centre, neighbour, x, order):
        return polynomial(np.array([0.1, 2.0, 0.7 + centre, -0.3, 0.2]), x, order)


class Repulsive(Salt):
    repulsive = True


class Magnet(Salt):
    """The same with levels and hoppings for each spin."""

    name = "magnet"
    n_spin = 2

    def two_centre(self, a, b, distances, order, spin=0):
        out = super().two_centre(a, b, distances, order)
        return {shells: ((1 + 0.2 * spin) * h, m) for shells, (h, m) in out.items()}

    def onsite(self, centre, neighbour, rho, order, spin=0):
        return (1 - 0.3 * spin) * super().onsite(centre, neighbour, rho, order)


def sheet():
    cell = graphene("C2", a=3.9)
    cell.numbers[:] = 14
    cell.pbc = (True, True, False)
    cell.cell[2] = 0
    return cell


def salt():
    return bulk("NaCl", "rocksalt", a=5.0)


def salt_chain():
    return Atoms("NaCl", [[0, 0, 0], [1.7, 0.4, 0.2]], cell=[3.6, 0, 0], pbc=[True, False, False])


# Cell, model, chemical potential (eV), repetitions, radius of the displaced atoms (Å), middle atom.
SYSTEMS = {
    "silicon": (lambda: bulk("Si", a=5.43), "nrl-Si-sp", 5.822, 2, 2.5, 0),
    "sheet": (sheet, "nrl-Si-sp", 5.0, 2, 2.3, 1),
    "salt": (salt, Salt(), -1.0, 2, 2.6, 1),
    "alloy": (
        lambda: Atoms("CuAu", [[0, 0, 0], [2.0, 2.0, 1.8]], cell=[2.9, 2.9, 3.7], pbc=True),
        "nrl-CuAu-spd",
        5.0,
        3,
        2.8,
        0,
    ),
    "iron": (lambda: bulk("Fe"), "nrl-Fe-spd-spin", 8.0, 4, 2.5, 0),
    "tungsten": (lambda: bulk("W"), "nrl-W-spd", 10.0, 4, 2.8, 0),
    # All atoms are displaced.
    "chain": (lambda: Atoms("Si", cell=[2.5, 0, 0], pbc=[True, False, False]), "nrl-Si-sp", 5.0, 5, 5.1, 0),
    "salt chain": (salt_chain, Salt(), -1.0, 3, 5.4, 1),
    "magnet": (salt_chain, Magnet(), -1.0, 3, 5.4, 1),
}
# Of the poles: finding those for 1e-9 takes longer than these tests.
ERROR = 1e-8
FAST = ["silicon", "sheet", "salt", "magnet"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("alloy", "iron", "tungsten")]


class Torus:
    """A region of the crystal that repeats after few cells, and the supercell that is the same thing."""

    def __init__(self, name, kind, order, cell=None, error=ERROR):
        build, model, mu, n, radius, basis = SYSTEMS[name]
        self.crystal = Crystal(cell or build())
        self.calc = TightBinding(model, kT=0.1, mu=mu)
        grid = (n,) * len(self.crystal.lattice)
        self.atoms = self.crystal.supercell(n)
        self.kind = kind
        self.parts = []
        model = self.calc.model
        for spin in range(model.n_spin):
            matrices = CrystalMatrices(model, self.crystal, grid, spin)
            poles = fermi_poles(*matrices.bounds(), mu, 0.1, error)
            region = Region(
                model, self.crystal, basis, radius, grid, order + (kind == "force"), spin, centre=True
            )
            sources = [Source(region, displacements=((0, c),)) for c in range(3)]
            residues = poles.occupation
            if kind == "energy":
                sources, residues = [Source(region, weighted=True)], -poles.grand
            self.parts.append(Expansion(region, matrices, poles, sources, 2 / model.n_spin * residues))
        self.region = region
        places = self.crystal.basis_positions[region.basis] + region.cells @ self.crystal.lattice
        difference = places[:, None] - self.atoms.positions[None]
        pbc = self.atoms.pbc
        scaled = difference @ np.linalg.pinv(self.atoms.cell.array[pbc])
        miss = np.linalg.norm(difference - np.rint(scaled) @ self.atoms.cell.array[pbc], axis=2)
        assert miss.min(axis=1).max() < 1e-8
        site = miss.argmin(axis=1)
        self.middle, self.displaced = site[0], site[region.displaced]

    def along(self, u):
        direction = np.zeros((len(self.atoms), 3))
        direction[self.displaced] = u
        return direction

    def value(self, u, h):
        """Site energy or force of the middle atom."""
        atoms = moved(self.atoms, self.along(u), h)
        if self.kind == "force":
            return self.calc.evaluate(atoms).forces[self.middle]
        return self.calc.evaluate(atoms, self.weights).energies[[self.middle]]

    @property
    def weights(self):
        return (np.arange(len(self.atoms)) == self.middle).astype(float)

    def slope(self, u, v, h):
        """Its derivative along v where the atoms are displaced by h u."""
        atoms = moved(self.atoms, self.along(u), h)
        if self.kind == "force":
            return self.calc.force_response(atoms, self.along(v)[None])[0, self.middle]
        return -np.array([(self.calc.evaluate(atoms, self.weights).forces * self.along(v)).sum()])


@pytest.mark.parametrize("kind", ["energy", "force"])
@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_first_and_second_order(name, kind, rng):
    torus = Torus(name, kind, 2)
    first = sum(part.first() for part in torus.parts)
    second = sum(part.second() for part in torus.parts)
    u, v = rng.uniform(-1, 1, (2, len(torus.displaced), 3))
    assert_derivative(lambda h: torus.value(u, h), np.einsum("smc,mc->s", first, u), noise=1e-9)
    assert_derivative(lambda h: torus.slope(u, v, h), np.einsum("smcnd,mc,nd->s", second, u, v), noise=1e-9)
    # The slope at the crystal itself needs no difference.
    assert torus.slope(u, v, 0.0) == pytest.approx(np.einsum("smc,mc->s", first, v), abs=2e-6)
    assert np.abs(second - second.transpose(0, 3, 4, 1, 2)).max() < 1e-10 * np.abs(second).max()


@pytest.mark.parametrize("kind", ["energy", "force"])
@pytest.mark.parametrize("name", [*FAST, SLOW[0]])
def test_third_order(name, kind, rng):
    torus = Torus(name, kind, 3)
    chosen = np.arange(2)
    third = sum(part.third(chosen) for part in torus.parts)
    u, v = rng.uniform(-1, 1, (2, len(torus.displaced), 3))
    v[2:] = 0.0  # only the chosen atoms are the first index
    here = torus.slope(u, v, 0.0)
    assert_derivative(
        lambda h: 2 * (torus.slope(u, v, h) - here) / h,
        np.einsum("smcndqe,mc,nd,qe->s", third, v[:2], u, u),
        noise=1e-8,
    )
    assert np.abs(third - third.transpose(0, 1, 2, 5, 6, 3, 4)).max() < 1e-9 * np.abs(third).max()
    exchanged = third[:, :, :, :2].transpose(0, 3, 4, 1, 2, 5, 6)
    assert np.abs(third[:, :, :, :2] - exchanged).max() < 1e-9 * np.abs(third).max()


@pytest.mark.parametrize("name", FAST[:3])
def test_fourth_order(name, rng):
    """Against differences of the slope along v; all orders of the indices, which are not treated alike."""
    torus = Torus(name, "energy", 4)
    pairs = [(0, 0), (0, 1), (1, 1)]
    parts = sum(fourth_derivatives(part, pairs) for part in torus.parts)
    corner = np.stack([parts[:, [0, 1]], np.stack([parts[:, 1].swapaxes(1, 2), parts[:, 2]], axis=1)], axis=1)
    fourth = corner.transpose(0, 1, 3, 2, 4, 5, 6, 7, 8)  # source, m c, n d, q e, p f
    u, v = rng.uniform(-1, 1, (2, len(torus.displaced), 3))
    u[2:] = v[2:] = 0.0  # only two atoms are the first two indices
    expected = np.einsum("smcndqepf,mc,nd,qe,pf->s", fourth, v[:2], u[:2], u, u)

    def curvature(h):
        """Differences of this are those of third order of the slope."""
        return (torus.slope(u, v, 2 * h) - 2 * torus.slope(u, v, h)) / h**2

    # Rounding of the slope, over the square of the smaller steps.
    assert_derivative(curvature, expected, noise=1e-5, steps=np.array([0.1, 0.05, 0.02, 0.01, 3e-3]))
    # Silicon at larger steps: pairs at 6.65 Å come within the range of the model, 6.61 Å.
    step = 0.007 if name == "silicon" else 0.02
    errors = [(curvature(h) - curvature(-h) - 2 * h * expected)[0] / (2 * h) for h in (step, step / 2)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)
    assert abs(errors[1]) < 0.02 * abs(expected[0])
    size = np.abs(fourth).max()
    inner = fourth[:, :, :, :, :, :2, :, :2]  # all four indices at the two atoms
    for order in itertools.permutations(range(4)):
        axes = [0, *(axis for k in order for axis in (2 * k + 1, 2 * k + 2))]
        assert np.abs(inner - inner.transpose(axes)).max() < 1e-9 * size


@pytest.mark.parametrize(("name", "atom"), [("salt chain", 1), ("magnet", 0)])
def test_fourth_order_is_the_slope_of_the_third(name, atom, rng):
    """Two species, one and two spins: to move a sublattice is to move each of its atoms."""
    direction = rng.uniform(-1, 1, 3)
    coarse = 1e-3  # sums over the same few poles on both sides

    def third(h):
        cell = salt_chain()
        cell.positions[0] += h * direction
        torus = Torus(name, "energy", 3, cell, coarse)
        place = np.argsort(torus.displaced)  # of each atom of the supercell
        tensor = sum(part.third(place[[atom]]) for part in torus.parts)[0, 0]
        return tensor[:, place][:, :, :, place]

    torus = Torus(name, "energy", 4, error=coarse)
    place = np.argsort(torus.displaced)
    assert len(place) == len(torus.atoms)
    pairs = [(place[atom], place[k]) for k in np.flatnonzero(torus.atoms.symbols == "Na")]
    fourth = sum(fourth_derivatives(part, pairs) for part in torus.parts)[0]
    slope = np.einsum("kcdnepf,d->cnepf", fourth, direction)[:, place][:, :, :, place]
    assert np.abs(slope).max() > 1.0
    assert_derivative(third, slope, noise=1e-8, steps=np.array([0.02, 4e-4]))


def test_translation_of_fourth_order():
    """All atoms of a periodic chain displaced together change nothing."""
    torus = Torus("chain", "energy", 4)
    assert len(torus.displaced) == len(torus.atoms)
    pairs = [(4, m) for m in range(5)]  # the middle atom is the last
    fourth = sum(fourth_derivatives(part, pairs) for part in torus.parts)[0]
    size = np.abs(fourth).max()
    assert np.abs(fourth.sum(axis=0)).max() < 1e-9 * size
    assert np.abs(fourth.sum(axis=3)).max() < 1e-9 * size
    assert np.abs(fourth.sum(axis=5)).max() < 1e-9 * size


@pytest.mark.parametrize("kind", ["energy", "force"])
def test_repulsion(kind, rng):
    """The middle atom and its neighbours in a crystal that does not notice its repetition."""
    crystal, model, n = Crystal(salt()), Repulsive(), 3
    atoms = crystal.supercell(n)
    region = Region(model, crystal, 1, 3.6, (n,) * 3, 4, centre=True)
    places = crystal.basis_positions[region.basis] + region.cells @ crystal.lattice
    scaled = (places[:, None] - atoms.positions[None]) @ np.linalg.inv(atoms.cell.array)
    site = np.linalg.norm(scaled - np.rint(scaled), axis=2).argmin(axis=1)
    species = np.array([model.symbols.index(s) for s in atoms.symbols])
    cell = atoms.cell.array
    shifts = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]) @ cell

    def energies(h, u):
        y = atoms.positions.copy()
        y[site[region.displaced]] += h * u
        r = np.linalg.norm(y[None, :, None] - y[:, None, None] + shifts, axis=-1)
        out = np.zeros(len(atoms))
        for i in range(len(atoms)):
            for t in (0, 1):
                d = r[i, species == t].ravel()
                d = d[(d > 0.1) & (d < model.cutoff)]
                x = model.repulsive_density(species[i], t, d, 0)[0].sum()
                out[i] += model.repulsive_energy(species[i], t, np.array([x]), 0)[0, 0]
        return out[site[0]] if kind == "energy" else out.sum()

    u = rng.uniform(-1, 1, (region.n_displaced, 3))
    middle = u[-1]
    tensors = [repulsive_derivatives(region, kind, j, np.arange(region.n_displaced)) for j in (1, 2, 3)]
    values = [
        np.einsum("smc,mc->s", tensors[0], u),
        np.einsum("smcnd,mc,nd->s", tensors[1], u, u),
        np.einsum("smcndqe,mc,nd,qe->s", tensors[2], u, u, u),
    ]
    steps = 0.01 * np.arange(-4, 5)  # small: no pair may cross the range
    # Taylor coefficients along u, for forces with the middle atom as a second direction.
    if kind == "energy":
        fit = np.polynomial.Polynomial.fit(steps, [energies(h, u) for h in steps], 8).convert().coef
        expected = [fit[1], 2 * fit[2], 6 * fit[3]]
        found = [float(v[0]) for v in values]
        w = np.zeros_like(u)
        w[-3:] = u[-3:]
        fit = np.polynomial.Polynomial.fit(steps, [energies(h, w) for h in steps], 8).convert().coef
        last = np.arange(region.n_displaced)[-3:]
        pairs = [(int(a), int(b)) for a in last for b in last]
        fourth = repulsive_fourth(region, pairs).reshape(3, 3, 3, 3, *w.shape, *w.shape)
        expected.append(24 * fit[4])
        found.append(float(np.einsum("mncdqepf,mc,nd,qe,pf", fourth, w[-3:], w[-3:], w, w, optimize=True)))
    else:
        only = np.zeros_like(u)
        only[-1] = middle

        def force(h):
            e = 5e-3
            near, far = (
                energies(1.0, h * u + k * e * only) - energies(1.0, h * u - k * e * only) for k in (1, 2)
            )
            return -(8 * near - far) / (12 * e)

        fit = np.polynomial.Polynomial.fit(steps, [force(h) for h in steps], 8).convert().coef
        expected = [fit[1], 2 * fit[2], 6 * fit[3]]
        found = [float(v @ middle) for v in values]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.fixture(scope="module")
def silicon():
    crystal = Crystal(bulk("Si", a=5.4264))
    calc = TightBinding("nrl-Si-sp", kT=0.1)
    return crystal, calc.with_options(mu=fermi_level(calc, crystal))


def test_orders_have_their_own_cutoffs_and_symmetry(silicon):
    crystal, calc = silicon
    rho = crystal.stencil(0, 2.5)
    for make, lead in ((site_energy_derivatives, ""), (force_derivatives, "b")):
        d = make(calc, crystal, 3, (3.9, 2.5, 2.5), margin=10.0, error=1e-6)
        assert d.cutoffs == {1: 3.9, 2: 2.5, 3: 2.5}
        assert d.tensors[1][0].shape[-2:] == (16, 3)
        assert len(d.stencil(2, 1)) == 4
        for basis in (0, 1):
            third = d.tensors[3][basis]
            axes = (0, 3, 4, 1, 2, 5, 6) if lead else (2, 3, 0, 1, 4, 5)
            assert np.abs(third - third.transpose(axes)).max() < 1e-12
            # A threefold axis along the first bond, and the mirror through two bonds.
            bonds = d.stencil(3, basis)
            axis = bonds[0] / np.linalg.norm(bonds[0])
            cross = np.cross(np.eye(3), axis)
            turn = -0.5 * np.eye(3) + 1.5 * np.outer(axis, axis) - np.sqrt(0.75) * cross
            image = np.linalg.norm((bonds @ turn.T)[:, None] - bonds[None], axis=2)
            assert image.min(axis=1).max() < 1e-6
            p = image.argmin(axis=1)
            letters = [turn] * (4 if lead else 3)
            spec = "Bb,Cc,Dd,Ee,bmcndqe->BmCnDqE" if lead else "Cc,Dd,Ee,mcndqe->mCnDqE"
            turned = np.einsum(spec, *letters, third, optimize=True)
            picked = third[:, p][:, :, :, p][:, :, :, :, :, p] if lead else third[p][:, :, p][:, :, :, :, p]
            assert np.abs(turned - picked).max() < 1e-9 * np.abs(third).max()
    assert np.abs(rho[0]).max() > 0


def test_fourth_order_of_both_atoms(silicon):
    crystal, calc = silicon
    with pytest.raises(ValueError, match=r"cutoff: the tensors for 5 Å at order 4 need 2 GB"):
        site_energy_derivatives(calc, crystal, 4, 5.0, max_memory=1.0)
    d = site_energy_derivatives(calc, crystal, 4, 2.4, margin=0.0, error=1e-4)
    for basis in (0, 1):
        fourth = d.tensors[4][basis]
        size = np.abs(fourth).max()
        for order in itertools.permutations(range(4)):
            axes = [axis for k in order for axis in (2 * k, 2 * k + 1)]
            assert np.abs(fourth - fourth.transpose(axes)).max() < 1e-12 * size
        # Every operation that leaves the site where it is, of the whole point group.
        own = [op for op in space_group(crystal) if op.sites[basis] == basis]
        assert len(own) == 24
        for op in own:
            p = stencil_permutation(crystal, op, basis, 2.4)
            image = turned(fourth, op.rotation, "energy", 4)
            assert np.abs(image - taken(fourth, p, "energy", 4)).max() < 1e-6 * size
    # Inversion through the bond centre maps one atom onto the other.
    first, second = d.stencil(4, 0), d.stencil(4, 1)
    p = np.linalg.norm(first[:, None] + second[None], axis=2).argmin(axis=1)
    assert np.abs(d.tensors[4][0] - taken(d.tensors[4][1], p, "energy", 4)).max() < 1e-9 * size


def test_equivalent_basis_atoms(silicon):
    """Inversion through the bond centre maps one atom onto the other: odd orders of forces are even."""
    crystal, calc = silicon
    d = force_derivatives(calc, crystal, 2, 2.5, margin=10.0, error=1e-6)
    first, second = d.stencil(1, 0), d.stencil(1, 1)
    p = np.linalg.norm(first[:, None] + second[None], axis=2).argmin(axis=1)
    assert np.abs(d.tensors[1][0] - d.tensors[1][1][:, p]).max() < 1e-10
    assert np.abs(d.tensors[2][0] + d.tensors[2][1][:, p][:, :, :, p]).max() < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(("cutoff", "tolerance"), [(5.0, 1e-2), (8.0, 1e-3)])
def test_force_constants_agree(silicon, cutoff, tolerance):
    """Those from a supercell sum over its images; their error falls with its size."""
    crystal, calc = silicon
    exact = -force_derivatives(calc, crystal, 1, cutoff).tensors[1][0].transpose(1, 0, 2)
    found = calc.force_constants(crystal, cutoff).matrices[0]
    assert np.abs(found - exact).max() < tolerance * np.abs(exact).max()
    # Inversion through the middle of the bond.
    assert np.abs(exact[:4] - exact[:4].swapaxes(1, 2)).max() < 1e-9


@pytest.mark.slow
def test_site_energies_add_up_to_the_force_constants(silicon):
    """``-d F_l / du_m = sum_k d2 V_k / du_l du_m`` but for sites farther away than the cutoff."""
    crystal, calc = silicon
    errors = []
    exact = -force_derivatives(calc, crystal, 1, 2.5).tensors[1][0][:, 0]
    for cutoff in (4.0, 6.0, 8.0):
        d = site_energy_derivatives(calc, crystal, 2, (1.0 + cutoff, cutoff))
        l, m = np.zeros(3), crystal.stencil(0, 2.5)[0]
        total = np.zeros((3, 3))
        for k in range(2):
            rho, tensor = d.stencil(2, k), d.tensors[2][k]
            # Sites of basis k, at all vectors to l that are in the stencil or zero.
            size = len(rho)
            full = np.zeros((size + 1, 3, size + 1, 3))
            full[:size, :, :size] = tensor
            full[size, :, :size] = -tensor.sum(axis=0)
            full[:size, :, size] = -tensor.sum(axis=2)
            full[size, :, size] = tensor.sum(axis=(0, 2))
            places = np.vstack([rho, np.zeros(3)])
            for a in range(size + 1):
                miss = np.linalg.norm(places - (places[a] + m - l), axis=1)
                basis = crystal.stencil_sites(k, cutoff)[1]
                if miss.min() < 1e-6 and (basis[a] if a < size else k) == 0:
                    total += full[a, :, miss.argmin()]
        errors.append(np.abs(total - exact).max() / np.abs(exact).max())
    assert errors[2] < 0.3 * errors[0]
    assert errors[2] < 1e-2


def test_arguments(silicon):
    crystal, calc = silicon
    with pytest.raises(ValueError, match="order: got 4"):
        force_derivatives(calc, crystal, 4)
    with pytest.raises(ValueError, match="order: got 5, expected 1, 2, 3 or 4"):
        site_energy_derivatives(calc, crystal, 5)
    with pytest.raises(ValueError, match="2 radii for 3 orders"):
        force_derivatives(calc, crystal, 3, (5.0, 4.0))
    with pytest.raises(ValueError, match="cutoff"):
        site_energy_derivatives(calc, crystal, 1, -1.0)
    with pytest.raises(ValueError, match="grand potential"):
        site_energy_derivatives(calc.with_options(energy="band"), crystal, 1)
    with pytest.raises(NumericsError, match="not positive definite .* closest pair: atoms 0 and 1"):
        force_derivatives(calc, Crystal(bulk("Si", a=4.0)), 1, 2.5, margin=0.0)
    with pytest.raises(StructureError, match="within the cutoff"):
        Region(calc.model, crystal, 0, 8.0, (2, 2, 2), 1)
    with pytest.raises(StructureError, match="within the range"):
        Region(calc.model, Crystal(bulk("Si")), 0, 0.5, (1, 3, 3), 1)
