"""Bands, densities of states, gaps and charges: against reference levels, and against counts of electrons."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.dft.kpoints import BandPath
from ase.io.jsonio import decode, encode
from helpers import random_rotation, rotated

from ase_qmmm import (
    Crystal,
    NumericsError,
    StructureError,
    TightBinding,
    band_gap,
    band_structure,
    density_of_states,
    fermi_level,
)
from ase_qmmm.plotting import plot_bands
from ase_qmmm.tightbinding.spectrum import States, fermi

SILICON = bulk("Si", a=5.42635)
KPTS = (6, 6, 6)


# -- bands ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bands():
    return band_structure("nrl-Si-sp", SILICON, "LGXUG,KW", npoints=60)


def test_bands_at_special_points(nrl_reference, bands):
    """The lattice's own special points, named by ASE, have the reference's levels."""
    anchors = nrl_reference["si_anchors"]["bands_a0"]["points"].copy()
    anchors["G"] = anchors.pop("Gamma")
    for name in "GXLKW":
        k = bands.path.special_points[name]
        index = int(np.abs(bands.path.kpts - k).max(axis=1).argmin())
        assert np.abs(bands.path.kpts[index] - k).max() < 1e-12
        assert np.abs(bands.energies[0, index] - anchors[name]).max() < 1e-6


def test_bands_at_reference_points(nrl_reference):
    """Levels at given points, in their order, although the calculator solves one of k, -k only."""
    table = nrl_reference["eigenvalues_si2_a5.43"]
    atoms = Atoms("Si2", table["positions"], cell=table["cell"], pbc=True)
    points = {name: p["k"] for name, p in table["points"].items()}
    path = BandPath(atoms.cell, kpts=np.array([*points.values(), *(-np.array(k) for k in points.values())]))
    energies = band_structure("nrl-Si-sp", atoms, path).energies[0]
    expected = [p["e"] for p in table["points"].values()]
    assert np.abs(energies - [*expected, *expected]).max() < 1e-6


def test_bands_are_those_of_ase(bands):
    """They plot, subtract their reference and travel through JSON as ASE's own."""
    assert bands.energies.shape == (1, 60, 8)
    assert (np.diff(bands.energies, axis=2) > -1e-9).all()
    assert bands.reference == pytest.approx(fermi_level("nrl-Si-sp", SILICON), abs=1e-12)
    assert bands.get_labels()[2] == ["L", "G", "X", "U", "G", "K", "W"]
    again = decode(encode(bands))
    assert np.array_equal(again.energies, bands.energies)


def test_kpoints_in_any_container():
    points = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.0]]
    expected = TightBinding().eigenvalues(SILICON, points)[0]
    for kpts in (np.array(points), tuple(np.array(k) for k in points), tuple(map(tuple, points))):
        assert np.array_equal(TightBinding().eigenvalues(SILICON, kpts)[0], expected)


def test_default_path_and_crystal():
    own = band_structure(TightBinding(), Crystal(SILICON), npoints=20)
    assert own.path.path == SILICON.cell.bandpath(npoints=0).path
    assert own.path.kpts.shape == (20, 3)
    assert band_structure(TightBinding(mu=5.0), SILICON, "GX", 2).reference == 5.0


def test_bands_of_another_cell_of_the_same_crystal(rng):
    """A skewed choice of lattice vectors, and a rotation, change k in the basis of the cell but no level."""
    skewed = SILICON.copy()
    skewed.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ SILICON.cell.array)
    expected = band_structure("nrl-Si-sp", SILICON, "LGXW", 12).energies
    for atoms in (skewed, rotated(SILICON, random_rotation(rng))):
        assert np.abs(band_structure("nrl-Si-sp", atoms, "LGXW", 12).energies - expected).max() < 1e-9


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])
def test_bands_of_graphene(order):
    """A layer without a third vector, whichever direction is open: the Dirac point at K."""
    layer = graphene(vacuum=None)
    layer.set_cell(layer.cell.array[order])
    layer.pbc = layer.pbc[order]
    bands = band_structure("nrl-C-sp", layer, "GKM", npoints=40)
    k = int(np.abs(bands.path.kpts - bands.path.special_points["K"]).max(axis=1).argmin())
    valence, conduction = bands.energies[0, :, 3], bands.energies[0, :, 4]
    assert conduction[k] == pytest.approx(valence[k], abs=1e-9)
    assert (conduction - valence)[np.arange(40) != k].min() > 0.1
    assert not bands.path.kpts[:, ~layer.pbc].any()
    assert bands.reference == pytest.approx(valence[k], abs=0.1)
    assert band_gap("nrl-C-sp", layer).gap == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"path": "GQX"}, ValueError, "path: got 'GQX', but this lattice has no Q; its special points are G"),
        ({"path": "gx"}, ValueError, "path: got 'gx'"),
        ({"path": "G"}, ValueError, "and the path two"),
        ({"path": ""}, ValueError, "path: got ''"),
        ({"path": "GX,"}, ValueError, "each of its pieces needs points"),
        ({"path": 3}, TypeError, "path: got int"),
        ({"path": bulk("Si", a=5.0).cell.bandpath("GX", npoints=3)}, ValueError, "path: its cell"),
        ({"npoints": 1}, ValueError, "npoints: got 1"),
        ({"npoints": 2.5}, ValueError, "npoints: got 2.5"),
        ({"point": 3}, TypeError, "did you mean 'npoints'"),
        ({"atoms": Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]])}, StructureError, "no direction is periodic"),
        ({"atoms": Atoms(pbc=True, cell=[3] * 3)}, StructureError, "got no atoms"),
        ({"atoms": bulk("U", "fcc", a=4.0)}, StructureError, "no parameters for U"),
        ({"atoms": "Si"}, TypeError, "atoms: got str"),
        ({"calc": 3}, TypeError, "calc: got int"),
        ({"calc": "nrl-Si-spp"}, ValueError, "did you mean 'nrl-Si-sp'"),
    ],
)
def test_bad_input_of_band_structure(arguments, error, text):
    with pytest.raises(error, match=text):
        band_structure(**({"calc": "nrl-Si-sp", "atoms": SILICON} | arguments))


# -- density of states ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "atoms", "kpts", "n_electrons"),
    [
        ("nrl-Si-sp", SILICON, KPTS, 8),
        ("nrl-Al-spd", bulk("Al", a=4.05), KPTS, 3),
        ("nrl-C-sp", graphene(vacuum=None), (6, 6, 1), 8),
        ("nrl-Si-sp", molecule("Si2H6")[:2], (1, 1, 1), 8),
    ],
    ids=["silicon", "aluminium", "graphene", "dimer"],
)
def test_density_of_states_counts(model, atoms, kpts, n_electrons):
    """Two places per orbital; up to mu, with occupations, the electrons; by site, those of Mulliken."""
    calc = TightBinding(model, kpts=kpts)
    dos = density_of_states(calc, atoms, kpts)
    total = dos.total()
    assert total.get_weights().sum() == pytest.approx(2 * len(dos), abs=1e-10)
    mu = fermi_level(calc, atoms, kpts)
    electrons = calc.charges(atoms)
    sites = [data.get_weights() @ fermi(data.get_energies(), mu, calc.kT) for data in dos.sum_by("site")]
    assert np.abs(np.array(sites) - electrons).max() < 1e-10
    assert sum(sites) == pytest.approx(n_electrons, abs=1e-10)


def test_projections_sum_to_one_per_state():
    dos = density_of_states("nrl-Si-sp", SILICON, KPTS)
    levels, weights = TightBinding().eigenvalues(SILICON, KPTS)
    assert all(np.array_equal(data.get_energies(), levels.ravel()) for data in dos)
    shares = np.sum([data.get_weights() for data in dos], axis=0)
    assert np.abs(shares - 2 * np.repeat(weights, 8)).max() < 1e-12


def test_labels_select_orbitals_of_sites():
    atoms = bulk("CuAu", "zincblende", a=6.0)
    dos = density_of_states("nrl-CuAu-spd", atoms, (2, 2, 2))
    assert len(dos) == 18
    assert [d.info["orbital"] for d in dos.select(site="1")] == [
        *("s", "p_y", "p_z", "p_x", "d_xy", "d_yz", "d_3z2-r2", "d_xz", "d_x2-y2")
    ]
    assert {d.info["species"] for d in dos.select(site="0")} == {"Cu"}
    shells = dos.sum_by("species", "l")
    assert sorted((d.info["species"], d.info["l"]) for d in shells) == sorted(
        (species, l) for species in ("Au", "Cu") for l in "dps"
    )
    size = {d.info["l"]: d.get_weights().sum() for d in shells.select(species="Au")}
    # A non-orthogonal basis moves weight between shells and sites, but the whole is 36.
    assert sum(d.get_weights().sum() for d in shells) == pytest.approx(36)
    assert size["d"] > size["p"] > size["s"]


def test_names_of_orbitals():
    """A bond along an axis splits the orbitals by their symmetry about it."""
    for axis, name in enumerate("xyz"):
        dos = density_of_states("nrl-Si-sp", Atoms("Si2", [[0, 0, 0], 2.3 * np.eye(3)[axis]]))
        levels, weights = zip(
            *((d.get_energies(), d.get_weights()) for d in dos.select(orbital=f"p_{name}")), strict=True
        )
        # Only the orbital along the bond takes part in the lowest level, which is mostly s.
        assert weights[0][np.argmin(levels[0])] > 0.01
        others = [d for d in dos if d.info["l"] == "p" and d.info["orbital"] != f"p_{name}"]
        assert max(abs(d.get_weights()[np.argmin(d.get_energies())]) for d in others) < 1e-12


def test_equivalent_orbitals_have_equal_densities():
    """Symmetric sites and orbitals, whatever the eigenvectors of degenerate levels happen to be."""
    for kpts in (KPTS, (1, 1, 1)):
        dos = density_of_states("nrl-Si-sp", SILICON, kpts, width=0.2)
        for l, count in (("s", 2), ("p", 6)):
            curves = np.array([d.get_weights() for d in dos.select(l=l)])
            assert curves.shape[0] == count
            assert np.ptp(curves, axis=0).max() < 1e-9 * curves.max()


def test_density_on_a_grid():
    raw = density_of_states("nrl-Si-sp", SILICON, (3, 3, 3))
    grid = density_of_states("nrl-Si-sp", SILICON, (3, 3, 3), width=0.15, npts=500)
    energies = grid.get_energies()
    assert len(energies) == 500
    sampled = raw.sample_grid(500, energies[0], energies[-1], width=0.15)
    assert [d.info for d in sampled] == [d.info for d in grid]
    assert np.abs(sampled.get_all_weights() - grid.get_all_weights()).max() < 1e-12
    assert grid.total().get_weights().sum() * (energies[1] - energies[0]) == pytest.approx(16, abs=1e-6)
    window = np.linspace(4.0, 8.0, 81)
    part = density_of_states("nrl-Si-sp", SILICON, (3, 3, 3), energies=window)
    assert np.array_equal(part.get_energies(), window)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width": 0.0}, ValueError, "width: got 0.0, expected a finite number > 0 eV"),
        ({"width": np.nan}, ValueError, "width"),
        ({"npts": 1}, ValueError, "npts: got 1"),
        ({"npts": 10, "energies": [0.0, 1.0]}, ValueError, "give one of the two"),
        ({"energies": [0.0, 2.0, 1.0]}, ValueError, "ascending and evenly spaced"),
        ({"energies": [0.0, 1.0, np.inf]}, ValueError, "finite energies"),
        ({"energies": 3.0}, ValueError, "two or more"),
        ({"kpts": (0, 1, 1)}, ValueError, "kpts"),
        ({"kpts": "many"}, ValueError, "kpts: got 'many'"),
        ({"atoms": graphene(vacuum=None), "calc": "nrl-C-sp", "kpts": (2, 2, 2)}, ValueError, "not periodic"),
        ({"widht": 0.1}, TypeError, "did you mean 'width'"),
        ({"atoms": Atoms()}, StructureError, "got no atoms"),
    ],
)
def test_bad_input_of_density_of_states(arguments, error, text):
    with pytest.raises(error, match=text):
        density_of_states(**({"calc": "nrl-Si-sp", "atoms": SILICON} | arguments))


# -- gaps ----------------------------------------------------------------------------------------------


def test_gap_of_silicon(nrl_reference):
    anchors = nrl_reference["si_anchors"]["bands_a0"]
    gap = band_gap(TightBinding(mu=0.0, kT=2.0), SILICON)  # neither matters
    assert gap.vbm == pytest.approx(anchors["VBM"], abs=1e-8)
    assert gap.cbm == pytest.approx(anchors["CBM"], abs=1e-8)
    assert gap.gap == pytest.approx(anchors["gap"], abs=1e-8)
    assert gap.k_vbm == (0, 0, 0)
    levels = TightBinding().eigenvalues(SILICON, [gap.k_cbm])[0][0]
    assert levels[4] == pytest.approx(gap.cbm, abs=1e-10)
    assert sorted(np.abs(gap.k_cbm)) in ([0, 0, 0.5], [0.5, 0.5, 0.5])
    direct = TightBinding().eigenvalues(SILICON, [gap.k_direct])[0][0]
    assert direct[4] - direct[3] == pytest.approx(gap.direct_gap, abs=1e-10)
    assert gap.direct_gap > gap.gap
    assert not gap.metallic
    assert str(gap).startswith("gap 1.0200 eV: VBM 5.2876 eV at k = (0, 0, 0)")


@pytest.mark.parametrize(
    ("model", "atoms", "kpts"),
    [
        ("nrl-Al-spd", bulk("Al", a=4.05), KPTS),  # odd number of electrons
        ("nrl-W-spd", bulk("W"), KPTS),  # even: bands overlap
        ("nrl-Si-sp", Atoms("Si"), None),  # two electrons in three degenerate levels
    ],
)
def test_no_gap(model, atoms, kpts):
    gap = band_gap(model, atoms, kpts)
    assert gap.gap == gap.direct_gap == 0.0
    assert gap.metallic
    assert gap.vbm >= gap.cbm - 1e-9
    assert str(gap).startswith("no gap")


def test_gap_of_a_molecule():
    """Between the highest full and the lowest empty level."""
    atoms = Atoms("C2", [[0, 0, 0], [1.3, 0, 0]])
    levels = TightBinding("nrl-C-sp").eigenvalues(atoms)[0][0]
    gap = band_gap("nrl-C-sp", atoms)
    assert (gap.vbm, gap.cbm) == pytest.approx((levels[3], levels[4]))
    assert gap.gap == pytest.approx(max(levels[4] - levels[3], 0.0), abs=1e-9)


def test_gap_of_a_full_model(monkeypatch):
    calc = TightBinding()
    monkeypatch.setattr(calc.model, "n_electrons", np.array([8.0]))
    with pytest.raises(NumericsError, match="16 electrons fill all bands"):
        band_gap(calc, SILICON, KPTS)
    monkeypatch.setattr(calc.model, "n_electrons", np.array([0.0]))
    with pytest.raises(NumericsError, match="0 electrons fill no band,"):
        band_gap(calc, SILICON, KPTS)


def test_spin_channels(monkeypatch):
    """Two channels, the second shifted: bands per channel, electrons counted over both together."""
    calc = TightBinding()
    single = calc._states(SILICON, KPTS)

    def two_channels(atoms, kpts=None):
        out = []
        for spin in (0, 1):
            for s in single:
                states = States(s.kpoints, s.weights / 2, s.levels + 0.1 * spin, s.vectors)
                states.spin = spin
                out.append(states)
        return out

    monkeypatch.setattr(calc, "_states", two_channels)
    gap, plain = band_gap(calc, SILICON, KPTS), band_gap("nrl-Si-sp", SILICON, KPTS)
    assert gap.gap == pytest.approx(plain.gap - 0.1, abs=1e-9)
    dos = density_of_states(calc, SILICON, KPTS)
    assert len(dos) == 16
    assert dos.total().get_weights().sum() == pytest.approx(16)
    assert dos.select(spin="1").total().get_weights().sum() == pytest.approx(8)
    up = density_of_states(calc, SILICON, KPTS, width=0.1).select(spin="0").total()
    assert up.get_weights().sum() * np.diff(up.get_energies())[0] == pytest.approx(8, abs=1e-6)


# -- pictures ------------------------------------------------------------------------------------------


def test_picture(bands, tmp_path):
    dos = density_of_states("nrl-Si-sp", SILICON, KPTS)
    path = tmp_path / "bands.png"
    figure = plot_bands(bands, dos.sum_by("l"), emin=-13, emax=5, path=path, title="Silicon")
    assert path.read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim() == (-13, 5)
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["total", "p", "s"]
    on_grid = plot_bands(bands, dos.select(site="0").sample_grid(200), emax=5).axes[1]
    names = {t.get_text() for t in on_grid.get_legend().get_texts()}
    assert names == {"total", "s", "p_x", "p_y", "p_z"}
    assert len(plot_bands(bands).axes) == 1


# -- charges -------------------------------------------------------------------------------------------


def test_charges_are_a_property():
    """Net charges, in units of e: valence minus Mulliken electrons, zero in sum and in a crystal."""
    atoms = bulk("CuAu", "zincblende", a=6.0)
    calc = atoms.calc = TightBinding("nrl-CuAu-spd", kpts=(3, 3, 3))
    charges = atoms.get_charges()
    assert charges == pytest.approx(11 - calc.charges(atoms), abs=1e-12)
    assert charges.sum() == pytest.approx(0, abs=1e-11)
    assert np.abs(charges).max() > 1e-3
    silicon = SILICON.copy()
    silicon.calc = TightBinding(kpts=(4, 4, 4))
    assert np.abs(silicon.get_charges()).max() < 1e-11


def test_charges_only_when_asked():
    """The order of the calls does not matter; neither call repeats the other's work or leaves old values."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    calc = atoms.calc = TightBinding()
    energy = atoms.get_potential_energy()
    assert "charges" not in calc.results
    charges = atoms.get_charges()
    assert calc.results["energy"] == energy
    atoms.positions[0, 0] += 0.2
    moved = atoms.get_charges()
    assert "energy" not in calc.results
    assert np.abs(moved - charges).max() > 1e-4
    fresh = atoms.copy()
    fresh.calc = TightBinding()
    assert fresh.get_potential_energy() == atoms.get_potential_energy()
    assert np.array_equal(fresh.get_charges(), moved)
    assert TightBinding().get_property("charges", Atoms()).shape == (0,)
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property("magmoms", atoms)
