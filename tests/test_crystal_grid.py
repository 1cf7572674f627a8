"""After which length a crystal may repeat: estimates against larger grids, in insulators and metals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase.build import bulk

from ase_qmmm import Crystal, TightBinding, fermi_level
from ase_qmmm.tightbinding import crystal_grid, force_derivatives, site_energy_derivatives
from ase_qmmm.tightbinding.crystal_grid import lattice_grid, repeat_length

NICKEL = Crystal(bulk("Ni", a=3.54))


def found_and_left(calc, crystal, cutoff, error):
    """Length, and the change of the Green's function when it is doubled."""
    mu = fermi_level(calc, crystal)
    length, estimate = repeat_length(calc.model, crystal, mu, calc.kT, cutoff, error)
    grids = [lattice_grid(crystal, length), lattice_grid(crystal, 2 * length)]
    blocks = [crystal_grid._near_blocks(calc.model, crystal, mu, calc.kT, cutoff, g)[0] for g in grids]
    return length, estimate, crystal_grid._largest_change(*blocks)


def test_silicon():
    calc = TightBinding("nrl-Si-sp")
    length, estimate, left = found_and_left(calc, Crystal(bulk("Si", a=5.4264)), 3.9, 1e-6)
    assert estimate == 1e-6
    assert 1e-7 < left < 4e-6
    assert 45 < length < 60  # Å; 2e-6 of the largest force constant are left at 50 Å (docs/derivatives.md)


def test_metals_repeat_after_a_length_that_grows_with_one_over_kT():
    """``kT exp(-pi kT length / hbar v)``: by less than a factor of two at half of kT."""
    lengths = []
    for kT in (0.1, 0.05):
        length, _, left = found_and_left(TightBinding("toy", kT=kT), NICKEL, 2.6, 1e-6)
        assert 1e-7 < left < 4e-6
        lengths.append(length)
    assert 1.4 < lengths[1] / lengths[0] < 2.0


def test_a_large_cell_needs_few_points():
    """Steps of the length that leave the grid as it is say nothing about convergence."""
    calc = TightBinding("toy", kT=0.1)
    cell = NICKEL.supercell(2, cubic=True)
    primitive = found_and_left(calc, NICKEL, 2.6, 1e-4)
    length, _, _ = found_and_left(calc, Crystal(cell), 2.6, 1e-4)
    assert length == pytest.approx(primitive[0], rel=0.3)


@pytest.mark.parametrize("make", [site_energy_derivatives, force_derivatives])
def test_derivatives_of_a_metal_are_converged(make):
    """Against twice the margin that was found."""
    calc = TightBinding("toy", kT=0.05)
    calc = calc.with_options(mu=fermi_level(calc, NICKEL))
    found = make(calc, NICKEL, 1, 2.6, error=1e-6).tensors[1][0]
    length, _ = repeat_length(calc.model, NICKEL, calc.mu, calc.kT, 2.6, 1e-4)
    margin = length - 2 * (2.6 + calc.model.cutoff)
    assert margin > 30
    twice = make(calc, NICKEL, 1, 2.6, error=1e-6, margin=2 * margin).tensors[1][0]
    less = make(calc, NICKEL, 1, 2.6, error=1e-6, margin=margin / 2).tensors[1][0]
    size = np.abs(twice).max()
    assert np.abs(found - twice).max() < 1e-3 * size
    assert np.abs(less - twice).max() > 3 * np.abs(found - twice).max()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "crystal", "cutoff"), [("nrl-Pb-sp", bulk("Pb", a=4.95), 3.6)])
def test_derivatives_of_lead(name, crystal, cutoff):
    crystal = Crystal(crystal)
    calc = TightBinding(name, kT=0.2)
    calc = calc.with_options(mu=fermi_level(calc, crystal))
    found = force_derivatives(calc, crystal, 1, cutoff, error=1e-6)
    length, _ = repeat_length(calc.model, crystal, calc.mu, calc.kT, cutoff, 1e-4)
    margin = length - 2 * (cutoff + calc.model.cutoff)
    twice = force_derivatives(calc, crystal, 1, cutoff, error=1e-6, margin=2 * margin)
    size = np.abs(twice.tensors[1][0]).max()
    assert np.abs(found.tensors[1][0] - twice.tensors[1][0]).max() < 1e-3 * size


def test_a_grid_that_is_too_large_is_told(monkeypatch, caplog):
    monkeypatch.setattr(crystal_grid, "GRID_MEMORY", 1e-3)
    with caplog.at_level(logging.WARNING):
        length, estimate, left = found_and_left(TightBinding("toy", kT=0.05), NICKEL, 2.6, 1e-7)
    assert "margin: elements of the density matrix are off by about" in caplog.text
    assert np.prod(lattice_grid(NICKEL, length)) * 80 <= 1e6
    assert estimate > 1e-7
    assert left / 4 < estimate < 6 * left


def test_margin_is_checked():
    calc = TightBinding("toy", mu=0.0)
    with pytest.raises(ValueError, match="margin"):
        force_derivatives(calc, NICKEL, 1, 2.6, margin=-1.0)
    with pytest.raises(ValueError, match="error"):
        force_derivatives(calc, NICKEL, 1, 2.6, error=0.0)
