"""Crystals, models and elastic constants shared by the tests of defects."""

from __future__ import annotations

from functools import cache

import numpy as np
from ase.build import bulk
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import Kumagai
from matscipy.calculators.manybody.explicit_forms.kumagai import Kumagai_Comp_Mat_Sci_39_Si

from ase_qmmm import EAM, Crystal
from ase_qmmm.defects import InternalDisplacements, elastic_constants


@cache
def tungsten():
    """Calculator (Zhou 2004), crystal, elastic constants."""
    calc = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.1648494), calc)
    return calc, crystal, elastic_constants(calc, crystal)


@cache
def silicon():
    """Calculator (Kumagai's MOD), crystal, elastic constants, internal displacements."""
    calc = Manybody(**Kumagai(Kumagai_Comp_Mat_Sci_39_Si))
    crystal = Crystal.relaxed(bulk("Si", a=5.429), calc)
    internal = InternalDisplacements.from_calculator(calc, crystal)
    return calc, crystal, elastic_constants(calc, crystal), internal


def planar_radius(atoms):
    """Distance (n,) of the sites from the line of a straight defect."""
    return np.linalg.norm((atoms.arrays["reference_positions"] - atoms.info["core"])[:, :2], axis=1)


def residual(atoms, calc):
    """Length (n,) of the forces, and distance (n,) from the line."""
    copy = atoms.copy()
    copy.calc = calc
    return np.linalg.norm(copy.get_forces(), axis=1), planar_radius(atoms)


def decay(force, radius, low, high):
    """Slope of the largest force in rings against distance, doubly logarithmic."""
    edges = np.geomspace(low, high, 6)
    rings = [(radius >= a) & (radius < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    largest = [force[ring].max() for ring in rings]
    return np.polyfit(np.log((edges[1:] * edges[:-1]) ** 0.5), np.log(largest), 1)[0]
