"""Write si_vacancy.extxyz: 5 x 5 x 5 cubic cells of silicon, one of 1000 atoms missing.

It is as a user would bring it: the lattice constant is the experimental one, 5.431 Å (CODATA 2018:
5.431020511 Å, rounded), not the model's own, and the vacancy lies at the corner of the cell, so that the
quantum region crosses its boundaries.
"""

from pathlib import Path

from ase.build import bulk

atoms = bulk("Si", a=5.431, cubic=True) * (5, 5, 5)
del atoms[0]
atoms.write(Path(__file__).parent / "si_vacancy.extxyz")
