"""How fast the force on an unrelaxed edge dislocation in tungsten falls with distance.

The (001)[100] edge dislocation of the papers, in a cylinder of 60 Å. Two ways to place the atoms: the elastic
field at the sites of the perfect crystal, which leaves a trace along the branch cut, and the slip-compatible
field, with the embedded-atom potential of Zhou et al. (2004):

    python examples/tungsten_edge.py edge.png
"""

import sys

import numpy as np
from ase.build import bulk
from matplotlib.figure import Figure

from ase_qmmm import EAM, Crystal, Regions
from ase_qmmm.defects import DislocationPredictor, burgers_circuit, edge_dislocation, elastic_constants


def residual(atoms, calc):
    """Largest force (eV/Å) in rings around the line, and their radii (Å)."""
    copy = atoms.copy()
    copy.calc = calc
    force = np.linalg.norm(copy.get_forces(), axis=1)
    radius = np.linalg.norm((copy.arrays["reference_positions"] - copy.info["core"])[:, :2], axis=1)
    edges = np.geomspace(6.0, radius[~copy.arrays["frozen"]].max(), 12)
    rings = [(radius >= a) & (radius < b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return (edges[1:] * edges[:-1]) ** 0.5, np.array([force[ring].max() for ring in rings])


def main(picture=None, size=60.0):
    """Print the decay, and draw it."""
    calc = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), calc)
    constants = elastic_constants(calc, crystal)
    atoms = edge_dislocation(
        crystal, (1, 0, 0), plane=(0, 0, 1), elastic_constants=constants, radius=size, frozen_width=10.0
    )
    print(atoms.info["defect"], len(atoms), "atoms")
    print("Burgers vector by a circuit of bonds (Å):", burgers_circuit(atoms, crystal, size / 2).round(4))
    print(Regions.detect(atoms, crystal, r_qm=6.0, r_buffer=6.0))

    plain = atoms.copy()
    # Constants of a cubic crystal in axes along its cube edges are the same in all such axes.
    field = DislocationPredictor(constants, atoms.info["burgers"], atoms.info["core"])
    plain.positions = plain.arrays["reference_positions"] + field.displacement(
        plain.arrays["reference_positions"]
    )

    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    slopes = {}
    for name, image, marker in (("elastic field", plain, "o"), ("slip-compatible", atoms, "s")):
        radius, force = residual(image, calc)
        far = radius > 15
        slopes[name] = np.polyfit(np.log(radius[far]), np.log(force[far]), 1)[0]
        print(f"{name}: force falls as r^{slopes[name]:.2f}")
        axes.loglog(radius, force, marker + "-", label=f"{name}: $r^{{{slopes[name]:.1f}}}$")
    axes.set_xlabel("distance from the line (Å)")
    axes.set_ylabel("largest force, unrelaxed (eV/Å)")
    axes.set_title("W (001)[100] edge dislocation")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    if picture:
        figure.savefig(picture, dpi=130)
    return slopes


if __name__ == "__main__":
    main(*sys.argv[1:2])
