"""Command line: ``ase-qmmm relax | fit | match | info | view``."""

from __future__ import annotations

import enum
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .fitting.commands import register

app = typer.Typer(
    name="ase-qmmm",
    help="QM/MM for crystal defects: quantum accuracy near the defect, a matched model far away.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ClusterKind(enum.StrEnum):
    """How the quantum cluster is carved."""

    auto = "auto"
    periodic = "periodic"
    open = "open"
    embedded = "embedded"


class OptimizerName(enum.StrEnum):
    """Optimisers on offer."""

    lbfgs = "lbfgs"
    bfgs = "bfgs"
    fire = "fire"
    precon_lbfgs = "precon-lbfgs"
    force_lbfgs = "force-lbfgs"


def _read(path: Path) -> Any:
    """One structure from a file, or a one-line error."""
    import ase.io

    if not path.is_file():
        raise typer.BadParameter(f"no such file: {path}")
    try:
        return ase.io.read(path)
    except Exception as error:
        raise typer.BadParameter(
            f"cannot read a structure from {path}: {error or type(error).__name__}"
        ) from error


@app.command()
def relax(
    structure: Annotated[Path, typer.Argument(help="Crystal with a defect, in any format that ASE reads.")],
    qm: Annotated[str, typer.Option(help="Quantum model; 'ase-qmmm info' lists them.")] = "nrl-Si-sp",
    crystal: Annotated[
        Path | None,
        typer.Option(help="File with the unit cell of the perfect crystal. [default: that of the element]"),
    ] = None,
    r_qm: Annotated[float, typer.Option(help="Atoms this close to the defect are QM (Å).")] = 6.0,
    r_buffer: Annotated[
        float | None,
        typer.Option(
            help="Width of the buffer around them (Å). [default: 2 in a periodic box, 8 for an open cluster]"
        ),
    ] = None,
    mm_cutoff: Annotated[float, typer.Option(help="Range of the matched far-field model (Å).")] = 8.0,
    cluster: Annotated[
        ClusterKind, typer.Option(help="How to carve the quantum cluster.")
    ] = ClusterKind.auto,
    kT: Annotated[float, typer.Option("--kT", help="Electronic temperature (eV).")] = 0.1,
    mu: Annotated[
        float | None, typer.Option(help="Chemical potential (eV). [default: that of the crystal]")
    ] = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="ASE optimiser.")] = OptimizerName.precon_lbfgs,
    fmax: Annotated[float, typer.Option(help="Largest force at the end (eV/Å).")] = 1e-3,
    steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 200,
    threads: Annotated[
        int, typer.Option(help="Threads of the linear algebra; more help only on an otherwise idle machine.")
    ] = 1,
    rescale: Annotated[
        bool,
        typer.Option(
            "--rescale", help="Scale the structure to the lattice constant of the quantum model first."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Prefix of the files written (replaced if there). [default: STRUCTURE_relaxed]",
        ),
    ] = None,
) -> None:
    """Relax a defect: quantum model near it, a model matched to it elsewhere.

    The defect is found by comparison with the perfect crystal. Writes PREFIX.extxyz (relaxed structure with
    regions as integer array 'region' and as tags: 0 mm, 1 buffer, 2 qm, 3 frozen), PREFIX.traj, PREFIX.json
    (energies, forces, timings, versions, parameters) and PREFIX.png. Exit status 1 if it did not converge, 2
    on errors.

    Example: ase-qmmm relax examples/si_vacancy.extxyz --r-qm 6
    """
    from .relaxation import RelaxationFiles, RelaxationSettings, relax_defect

    settings = RelaxationSettings(
        qm=qm,
        kT=kT,
        mu=mu,
        r_qm=r_qm,
        r_buffer=r_buffer,
        mm_cutoff=mm_cutoff,
        cluster=cluster.value,
        optimizer=optimizer.value,
        fmax=fmax,
        steps=steps,
        rescale=rescale,
        threads=threads,
    )
    settings.validate()
    files = RelaxationFiles(output or Path(f"{structure.stem}_relaxed"))
    atoms = _read(structure)
    unit_cell = None if crystal is None else _read(crystal)
    summary = relax_defect(atoms, files, settings, unit_cell=unit_cell, report=typer.echo, progress=True)
    if not summary["converged"]:
        raise typer.Exit(1)


@app.command()
def info(
    structure: Annotated[Path | None, typer.Argument(help="Structure to describe.")] = None,
    crystal: Annotated[
        Path | None, typer.Option(help="File with the unit cell to look for defects against.")
    ] = None,
) -> None:
    """Versions and quantum models; with a file, what is in it: cell, regions, defects."""
    from .relaxation import guess_unit_cell, versions
    from .tightbinding import model_names

    if structure is None:
        typer.echo("versions: " + ", ".join(f"{k} {v}" for k, v in versions().items()))
        typer.echo("quantum models: " + ", ".join(model_names()))
        return
    atoms = _read(structure)
    periodic = "".join("xyz"[k] if p else "-" for k, p in enumerate(atoms.pbc))
    typer.echo(f"{structure}: {len(atoms)} atoms, {atoms.get_chemical_formula()}, periodic {periodic}")
    typer.echo("cell lengths (Å) and angles: " + ", ".join(f"{x:.4f}" for x in atoms.cell.cellpar()))
    if "region" in atoms.arrays:
        from .mixing import Regions

        typer.echo(f"regions: {Regions.from_atoms(atoms)!r}")
    from .crystal import Crystal
    from .errors import StructureError
    from .mixing.regions import defect_centres

    try:
        unit_cell = _read(crystal) if crystal is not None else _fitting_cell(guess_unit_cell(atoms), atoms)
        centres = defect_centres(atoms, Crystal(unit_cell))
    except StructureError as error:
        typer.echo(f"defects: {str(error).removeprefix('atoms: ')}")
        return
    typer.echo(f"defects: {len(centres)} vacant sites or atoms off the lattice")
    for centre in centres[:10]:
        typer.echo("  at ({:.2f}, {:.2f}, {:.2f}) Å".format(*(centre.round(2) + 0.0)))


def _fitting_cell(unit_cell: Any, atoms: Any) -> Any:
    """`unit_cell` scaled to the density of the atoms, which a few defects hardly change."""
    if atoms.cell.rank == 3 and len(atoms):
        density = (atoms.get_volume() / len(atoms)) / (unit_cell.get_volume() / len(unit_cell))
        if 0.8 < density < 1.25:
            unit_cell.set_cell(unit_cell.cell.array * density ** (1 / 3), scale_atoms=True)
    return unit_cell


@app.command()
def view(
    structure: Annotated[Path, typer.Argument(help="Structure with regions, as 'relax' writes it.")],
    png: Annotated[Path | None, typer.Option(help="Draw this PNG instead of opening ase gui.")] = None,
) -> None:
    """Look at regions: open ase gui coloured by region, or draw a PNG."""
    atoms = _read(structure)
    if png is not None:
        from .plotting import plot_regions

        plot_regions(atoms, path=png)
        typer.echo(f"wrote {png}")
        return
    _open_gui(atoms)


def _open_gui(atoms: Any) -> None:
    """Run ase gui on `atoms`, coloured by region where they have regions."""
    if "region" in atoms.arrays:
        from .mixing import Regions

        Regions.from_atoms(atoms).write(atoms)
    try:
        from tkinter import TclError

        from ase.gui.gui import GUI
        from ase.gui.images import Images
    except ImportError as error:
        raise OSError(f"ase gui needs tkinter ({error}); draw a picture instead: --png FILE") from error
    try:
        gui = GUI(Images([atoms]))
    except TclError as error:
        raise OSError(f"ase gui cannot start: {error}; draw a picture instead: --png FILE") from error
    if "region" in atoms.arrays:
        colour_by_region(gui)
    gui.run()


def colour_by_region(gui: Any) -> None:
    """Set the colours of an open ase gui window, as its dialogue 'Colors' does, to those of the pictures."""
    from .plotting import REGION_COLOURS

    gui.colormode = "tag"
    # Colour number int(tag / 4 * 4 + 1/2) of four.
    gui.colormode_data = [REGION_COLOURS[number] for number in range(4)], 0, 4
    gui.draw()


register(app)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: errors are one line on standard error, without a traceback."""
    from .errors import QMMMError

    if not (sys.argv[1:] if arguments is None else arguments):
        arguments = ["--help"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        result = app(args=arguments, prog_name="ase-qmmm", standalone_mode=False)
    except KeyboardInterrupt:
        return _fail("interrupted; what was computed is in the files", 130)
    except (QMMMError, ValueError, TypeError, IndexError, OSError) as error:
        return _fail(str(error))
    except Exception as error:
        # Usage errors of the option parser know how to say themselves.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return _fail(message())
    return result if isinstance(result, int) else 0


def _fail(message: str, status: int = 2) -> int:
    typer.echo(f"ase-qmmm: error: {' '.join(message.split())}", err=True)
    return status


def run() -> None:
    """Console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
