"""examples/si_validation.py: elastic constants and vacancy against an independent implementation."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.tightbinding import cauchy_born_derivatives

SCRIPT = Path(__file__).parents[1] / "examples" / "si_validation.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def test_elastic_constants_on_the_grid_of_the_anchors(nrl_reference):
    """Exact derivatives against differences of the stress of an independent program, on its k-points.

    Not the relaxed C44: a shifted grid of the primitive cell breaks the symmetry, the basis feels a force.
    """
    anchors = nrl_reference["si_anchors"]["elastic_GPa"]
    cell = bulk("Si", a=anchors["a"])
    constants = (
        cauchy_born_derivatives(
            TightBinding("nrl-Si-sp", kT=0.1, mu=5.822),
            Crystal(cell),
            2,
            fixed_number=True,
            kpts={"size": (6, 6, 6)},
            error=1e-8,
        ).elastic_constants()
        / GPa
    )
    # The anchors are those of the band energy over finite strains.
    assert constants[0, 0, 0, 0] == pytest.approx(anchors["C11"], rel=3e-3)
    assert constants[0, 0, 1, 1] == pytest.approx(anchors["C12"], rel=3e-3)
    assert constants[1, 2, 1, 2] == pytest.approx(anchors["C44_unrelaxed"], rel=3e-3)


def test_elastic_constants_of_the_script(script, silicon_qm, silicon_crystal, nrl_reference):
    """Converged in k-points and at a fixed chemical potential; the anchors are up to 0.6 % from it."""
    anchors = nrl_reference["si_anchors"]["elastic_GPa"]
    got = script["elastic_constants"](silicon_qm, silicon_crystal, 1e-8)
    for name, anchor in (
        ("B", "B"),
        ("C11", "C11"),
        ("C12", "C12"),
        ("C44", "C44_relaxed"),
        ("C44, sublattices not relaxed", "C44_unrelaxed"),
    ):
        assert got[f"{name} (GPa)"] == pytest.approx(anchors[anchor], rel=6e-3)


def test_unrelaxed_vacancy(script, nrl_reference):
    """Formation energy from band energies, at the lattice constant and the k-points of the anchor."""
    anchor = nrl_reference["si_anchors"]["vacancy_unrelaxed_64_k222_MP"]
    whole, atoms, neighbours = script["vacancy"](Crystal(bulk("Si", a=5.42635)), 2)
    assert len(whole) == 64
    distances = script["neighbour_distances"](atoms, neighbours)
    assert distances == pytest.approx([5.42635 / 2**0.5] * 6)
    calc = TightBinding("nrl-Si-sp", kT=0.1, kpts={"size": (2, 2, 2)}, energy="band")
    assert script["formation_energy"](whole, atoms, calc) == pytest.approx(anchor["Ef"], abs=1e-6)


@pytest.mark.slow
def test_relaxed_vacancy(script, capsys):
    """At this electronic temperature the vacancy is symmetric: from a paired start it comes back to Td."""
    rows = script["main"](["--sites", "2"])
    printed = capsys.readouterr().out
    assert "Phys. Rev. B 62, 4477" in printed
    assert rows["64 paired"] == pytest.approx(rows["64 Td"], abs=1e-3)
    # Numbers of this package; with two k-points per direction, docs/models.md.
    assert rows["64 unrelaxed"] == pytest.approx(4.368, abs=2e-3)
    assert rows["64 Td"] == pytest.approx(3.816, abs=2e-3)
    assert np.isclose(rows["a (Å)"], 5.4264, atol=1e-4)
