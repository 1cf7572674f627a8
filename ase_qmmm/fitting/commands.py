"""Command line: ``ase-qmmm fit | match``."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..crystal import Crystal

__all__ = ["register"]


class SolverName(enum.StrEnum):
    """Linear solvers on offer."""

    qr = "qr"
    rrqr = "rrqr"
    ridge = "ridge"
    bayesian_ridge = "bayesian-ridge"
    ard = "ard"
    lsqr = "lsqr"


class MMKind(enum.StrEnum):
    """Models that can be matched."""

    ace = "ace"


Order = Annotated[int, typer.Option(help="Correlation order of the basis, 1 to 4.")]
Degree = Annotated[
    str, typer.Option(help="Largest total degree of the basis, or one for each order, such as 24,24,8.")
]
Cutoff = Annotated[float, typer.Option(help="Cutoff of the basis (Å).")]
Tolerance = Annotated[float, typer.Option(help="Of rrqr: relative size of what counts as determined.")]
Alpha = Annotated[float, typer.Option(help="Strength of ridge and lsqr.")]
Smoothness = Annotated[float, typer.Option(help="Exponent of the smoothness prior; 0: none.")]
Threads = Annotated[
    int, typer.Option(help="Threads of the linear algebra; more help only on an otherwise idle machine.")
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        help="Weights of squared errors, 'energy=900,forces=1' or 'GROUP:forces=5'; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(fit)
    app.command()(match)


def fit(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="Structures with energies, forces or virials, in extended XYZ.")
    ],
    elements: Annotated[str, typer.Option(help="Chemical symbols of the basis, such as Si or Ni,Al.")],
    order: Order = 3,
    degree: Degree = "12",
    cutoff: Cutoff = 6.0,
    pair_basis: Annotated[bool, typer.Option(help="Add pair functions.")] = True,
    solver: Annotated[SolverName, typer.Option(help="Linear solver.")] = SolverName.ard,
    weights: Weights = None,
    tolerance: Tolerance = 1e-6,
    alpha: Alpha = 1e-8,
    smoothness: Smoothness = 0.0,
    test: Annotated[Path | None, typer.Option(help="Structures to test the fit on, likewise.")] = None,
    energy_key: Annotated[str, typer.Option(help="Name of the energy (eV).")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces (eV/Å).")] = "forces",
    virial_key: Annotated[str, typer.Option(help="Name of the virial (eV).")] = "virial",
    group_key: Annotated[str, typer.Option(help="Name of the group of a structure.")] = "config_type",
    streamed: Annotated[
        bool,
        typer.Option("--streamed", help="Hold one structure's rows at a time; not for Bayesian solvers."),
    ] = False,
    threads: Threads = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Prefix of the files written (replaced if there). [default: DATA]"
        ),
    ] = None,
) -> None:
    """Fit a linear ACE potential to structures with energies, forces and virials.

    Writes PREFIX.ace.json (the potential), PREFIX.json (the record of the fit: errors, rank, condition,
    weights), PREFIX.png (parity) and, with --test and a Bayesian solver, PREFIX_calibration.png.

    Example: ase-qmmm fit data.extxyz --elements Si --degree 12 --cutoff 6 --test held.extxyz -o si
    """
    from .fit import fit_ace
    from .observations import Observations

    _limit(context, threads)
    basis = _basis(elements, order, degree, cutoff, pair_basis)
    by_group = parse_weights(weights)
    prefix = output or Path(data.stem)
    keys = {
        "energy_key": energy_key,
        "forces_key": forces_key,
        "virial_key": virial_key,
        "group_key": group_key,
    }
    observations = _observed(Observations(), data, keys)
    held_out = None if test is None else _observed(Observations(), test, keys)
    typer.echo(f"{basis!r}\n{data}: {observations!r}")
    result = fit_ace(
        basis,
        observations,
        solver.value,
        by_group,
        smoothness=smoothness,
        streamed=streamed,
        progress=True,
        **_solver_options(solver, tolerance, alpha),
    )
    typer.echo(str(result))
    sets = {"training": result.parity(observations)}
    if held_out is not None:
        from .errors import error_table, format_errors

        sets["test"] = result.parity(held_out)
        typer.echo(f"test, {test}: {held_out!r}\n{format_errors(error_table(sets['test']))}")
    _write(result, prefix, sets)
    if held_out is not None and result.solution.covariance is not None and held_out.counts()["forces"]:
        calibration = result.calibrate(held_out)
        typer.echo(str(calibration))
        picture = prefix.with_name(f"{prefix.name}_calibration.png")
        calibration.plot(picture)
        typer.echo(f"wrote {picture}")


def match(
    context: typer.Context,
    qm: Annotated[str, typer.Option(help="Model to match: tight binding ('ase-qmmm info') or EAM.")],
    mm: Annotated[MMKind, typer.Option(help="Model that is matched.")] = MMKind.ace,
    crystal: Annotated[
        Path | None,
        typer.Option(help="File with the unit cell of the perfect crystal. [default: that of the element]"),
    ] = None,
    order: Order = 3,
    degree: Degree = "12",
    cutoff: Cutoff = 5.0,
    energies: Annotated[int, typer.Option(help="K_E: site energies up to this order, 0 to 3.")] = 0,
    forces: Annotated[int, typer.Option(help="K_F: forces up to this order, 0 to 2.")] = 1,
    virials: Annotated[
        int, typer.Option(help="Cauchy-Born energy up to this derivative, 0 to 3; 1 is the stress.")
    ] = 3,
    reach: Annotated[
        float | None,
        typer.Option(
            help="Derivatives within this radius (Å). [default: cutoff for energies, twice that for forces]"
        ),
    ] = None,
    gamma: Annotated[float, typer.Option(help="Weights grow as exp(2 gamma r) (1/Å).")] = 0.0,
    solver: Annotated[SolverName, typer.Option(help="Linear solver.")] = SolverName.rrqr,
    weights: Weights = None,
    tolerance: Tolerance = 1e-8,
    alpha: Alpha = 1e-8,
    smoothness: Smoothness = 0.0,
    threads: Threads = 1,
    kT: Annotated[float, typer.Option("--kT", help="Electronic temperature of tight binding (eV).")] = 0.1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Prefix of the files written (replaced if there). [default: QM_ace]"
        ),
    ] = None,
) -> None:
    """Match an ACE potential to the derivatives of a quantum model at the perfect crystal.

    The crystal is relaxed first. Prints the matching errors and elastic constants; writes PREFIX.ace.json,
    PREFIX.json and PREFIX.png like 'fit'.

    Example: ase-qmmm match --qm nrl-Si-sp --cutoff 5 --degree 12 -o si
    """
    from .fit import fit_ace
    from .matching import matching_errors
    from .observations import Observations

    _limit(context, threads)
    if not (0 <= energies <= 3 and 0 <= forces <= 2 and 0 <= virials <= 3 and energies + forces + virials):
        raise typer.BadParameter(
            "orders: expected --energies 0 to 3, --forces 0 to 2, --virials 0 to 3, not all 0"
        )
    by_group = parse_weights(weights)
    model, unit_cell = _model(qm, kT, crystal)
    basis = _basis(",".join(sorted(set(unit_cell.get_chemical_symbols()))), order, degree, cutoff, True)
    typer.echo(f"{model!r}\n{basis!r}")
    perfect = Crystal.relaxed(unit_cell, model)
    typer.echo(f"relaxed: {perfect!r}")
    observations = Observations()
    radius = {"E": reach or cutoff, "F": reach or 2 * cutoff}
    references = {}
    if energies:
        typer.echo(f"site energies up to order {energies} within {radius['E']:g} Å ..")
        references["E"] = model.site_energy_derivatives(perfect, energies, radius["E"])
        observations.add_site_derivatives(references["E"], gamma=gamma)
    if forces:
        typer.echo(f"forces up to order {forces} within {radius['F']:g} Å ..")
        references["F"] = model.force_derivatives(perfect, forces, radius["F"])
        observations.add_force_constants(references["F"], gamma=gamma)
    if virials:
        observations.add_virial_derivatives(model, perfect, virials)
    typer.echo(f"{observations!r}")
    result = fit_ace(
        basis,
        observations,
        solver.value,
        by_group,
        smoothness=smoothness,
        progress=True,
        **_solver_options(solver, tolerance, alpha),
    )
    typer.echo(str(result))
    for kind, reference in references.items():
        most = max(reference.tensors)
        found = matching_errors(
            reference, result.potential, perfect, most, gamma, cutoff=radius[kind], kinds=kind
        )
        typer.echo(str(found))
    virial_errors = matching_errors(model, result.potential, perfect, 2 if virials == 3 else 1, kinds="V")
    typer.echo(str(virial_errors))
    for name, one in (("qm", model), ("mm", result.potential)):
        typer.echo(f"{name}: {_elastic(one, perfect)}")
    prefix = output or Path(f"{Path(qm).stem}_ace")
    _write(result, prefix, {"matched": result.parity(observations)})


def parse_weights(texts: Iterable[str] | None) -> dict[str, dict[str, float]]:
    """Weights by group and kind from ``[GROUP:]kind=value,..``."""
    out: dict[str, dict[str, float]] = {}
    for text in texts or ():
        group, _, pairs = text.rpartition(":")
        for pair in pairs.split(","):
            kind, equals, value = pair.partition("=")
            try:
                number = float(value)
            except ValueError:
                number = np.nan
            if not equals or not np.isfinite(number):
                raise typer.BadParameter(f"weights: got {text!r}, expected such as 'energy=900,forces=1'")
            out.setdefault(group.strip() or "default", {})[kind.strip()] = number
    return out


def _limit(context: typer.Context, threads: int) -> None:
    """Threads of the linear algebra until the command ends."""
    from threadpoolctl import threadpool_limits

    if threads < 1:
        raise typer.BadParameter(f"threads: got {threads}, expected 1 or more")
    context.with_resource(threadpool_limits(threads))


def _basis(elements: str, order: int, degree: str, cutoff: float, pair_basis: bool) -> Any:
    from ..ace import ACEBasis

    names = [e for e in elements.replace(",", " ").split() if e]
    try:
        degrees = [float(d) for d in degree.split(",")]
    except ValueError:
        raise ValueError(
            f"degree: got {degree!r}, expected a number or one for each order, 24,24,8"
        ) from None
    several = degrees if len(degrees) > 1 else degrees[0]
    return ACEBasis(names, order=order, degree=several, cutoff=cutoff, pair_basis=pair_basis)


def _solver_options(solver: SolverName, tolerance: float, alpha: float) -> dict[str, Any]:
    if solver == SolverName.rrqr:
        return {"tolerance": tolerance}
    return {"alpha": alpha} if solver in (SolverName.ridge, SolverName.lsqr) else {}


def _observed(observations: Any, path: Path, keys: dict[str, str]) -> Any:
    """All structures of a file; an error names the file."""
    import ase.io

    if not path.is_file():
        raise typer.BadParameter(f"no such file: {path}")
    try:
        images = ase.io.read(path, ":")
    except Exception as error:
        raise typer.BadParameter(
            f"cannot read structures from {path}: {error or type(error).__name__}"
        ) from error
    if not images:
        raise typer.BadParameter(f"no structures in {path}")
    try:
        return observations.add_configurations(images, **keys)
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {error}") from error


def _model(name: str, kT: float, crystal: Path | None) -> tuple[Any, Any]:
    """The model of a name, and the unit cell to start from."""
    import ase.io
    from ase.build import bulk

    from ..eam import EAM
    from ..tightbinding import TightBinding

    model: Any
    if name.endswith("-zhou04") or name.endswith(
        (".eam", ".eam.alloy", ".eam.fs", ".setfl", ".alloy", ".fs")
    ):
        model = EAM(name)
        elements = list(model.potential.symbols)
    else:
        model = TightBinding(name, kT=kT)
        elements = [name.split("-")[1]] if name.count("-") else []
    if crystal is not None:
        if not crystal.is_file():
            raise typer.BadParameter(f"no such file: {crystal}")
        return model, ase.io.read(crystal)
    try:
        (element,) = elements
        return model, bulk(element)
    except (ValueError, KeyError, RuntimeError) as error:
        raise typer.BadParameter(
            f"crystal: ASE knows none for {name!r}; give the unit cell in a file"
        ) from error


def _elastic(model: Any, crystal: Crystal) -> str:
    """C11, C12, C44 of the crystal axes, the basis atoms relaxed; why not, if they have no equilibrium."""
    from ase.units import GPa

    from ..errors import NumericsError

    try:
        c = model.cauchy_born_derivatives(crystal, 2, relaxed=True).elastic_constants() / GPa
    except NumericsError as error:
        return f"no elastic constants ({error})"
    three = f"C11 {c[0, 0, 0, 0]:.2f}, C12 {c[0, 0, 1, 1]:.2f}, C44 {c[0, 1, 0, 1]:.2f}"
    return f"{three} GPa (axes x, y, z of the cell)"


def _write(result: Any, prefix: Path, sets: dict[str, np.ndarray]) -> None:
    from .plots import plot_parity

    record, picture = prefix.with_name(f"{prefix.name}.json"), prefix.with_name(f"{prefix.name}.png")
    result.save(record)
    plot_parity(sets, picture)
    typer.echo(f"wrote {prefix}.ace.json, {record}, {picture}")
