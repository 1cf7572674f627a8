"""Pictures of regions and displacements."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from matplotlib.colors import to_hex
from mixing_fixtures import silicon_cell, vacancy

from ase_qmmm import Regions, StructureError
from ase_qmmm.plotting import REGION_COLOURS, REGION_NAMES, plot_regions


def marked(n=3, frozen=8.0):
    atoms, place = vacancy(n)
    Regions.from_distance(atoms, place, 4.2, 2.5, frozen).write(atoms)
    return atoms, place


def displaced():
    atoms, place = marked()
    away = atoms.positions - place
    displacement = -0.3 * away / np.linalg.norm(away, axis=1)[:, None] ** 3
    return atoms, place, displacement


def test_picture(tmp_path):
    atoms, place, displacement = displaced()
    path = tmp_path / "regions.png"
    figure = plot_regions(atoms, displacement, centre=place, path=path, title="A vacancy")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
    left, right = figure.axes
    assert left.get_xlabel() == "x (Å)"
    assert "Å" in right.get_ylabel()
    assert figure.get_suptitle() == "A vacancy"
    assert right.get_yscale() == "log"


def test_every_region_has_its_colour():
    atoms, place, displacement = displaced()
    left, right = plot_regions(atoms, displacement, centre=place).axes
    numbers = Regions.from_atoms(atoms).numbers
    inside = np.abs(atoms.positions[:, 2] - place[2]) < 4.0
    drawn = {to_hex(c.get_facecolor()[0]): len(c.get_offsets()) for c in left.collections[:4]}
    assert drawn == {REGION_COLOURS[k]: int((numbers[inside] == k).sum()) for k in REGION_NAMES}
    assert sum(len(c.get_offsets()) for c in right.collections) == len(atoms)


def test_legend_lies_outside_the_axes():
    """Below them, where it covers no atom; it names the regions that are there."""
    for frozen, names in ((8.0, ["mm", "buffer", "qm", "frozen"]), (None, ["mm", "buffer", "qm"])):
        figure = plot_regions(marked(frozen=frozen)[0])
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names
        box = legend.get_window_extent()
        for axes in figure.axes:
            assert axes.get_legend() is None
            assert box.y1 < axes.get_tightbbox().y0


def test_displacements_of_the_atoms():
    """By default those that the structure holds; without any, a histogram of distances."""
    atoms, place, displacement = displaced()
    right = plot_regions(atoms, centre=place).axes[1]
    assert right.get_ylabel() == "atoms"
    # Each atom stands in one bar of one region.
    assert sum(patch.get_height() for patch in right.patches) == len(atoms)
    atoms.set_array("displacement", displacement)
    assert "displacement" in plot_regions(atoms, centre=place).axes[1].get_ylabel()


def test_nothing_moved():
    atoms, place = marked()
    figure = plot_regions(atoms, np.zeros((len(atoms), 3)), centre=place)
    assert figure.axes[1].get_yscale() == "linear"


def test_centre_across_a_boundary():
    """The qm atoms lie in all corners of the cell; their middle is the vacancy, not that of the cell."""
    atoms, place = marked(4)
    atoms.translate(-place)
    atoms.wrap()
    left = plot_regions(atoms).axes[0]
    qm = next(c for c in left.collections if to_hex(c.get_facecolor()[0]) == REGION_COLOURS[2])
    assert np.abs(qm.get_offsets()).max() < 4.2


def test_all_qm_and_no_qm():
    for selection in (slice(None), []):
        atoms = silicon_cell(2)
        Regions(selection, n_atoms=64).write(atoms)
        assert len(plot_regions(atoms).legends[0].get_texts()) == 1


def test_without_atoms():
    with pytest.raises(StructureError, match="without atoms"):
        plot_regions(Atoms())


def test_without_regions():
    with pytest.raises(ValueError, match="no array 'region'"):
        plot_regions(silicon_cell(2))
