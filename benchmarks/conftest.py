"""What the benchmarks share: models, structures, and what is noted beside the times."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import Kumagai, StillingerWeber
from matscipy.calculators.manybody.explicit_forms.kumagai import Kumagai_Comp_Mat_Sci_39_Si
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from ase_qmmm import Crystal, TaylorForces


def kumagai():
    return Manybody(**Kumagai(Kumagai_Comp_Mat_Sci_39_Si))


def stillinger_weber():
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


@pytest.fixture(scope="session")
def silicon():
    return Crystal.relaxed(bulk("Si"), kumagai())


@pytest.fixture(scope="session")
def taylor(silicon):
    """TaylorForces of Kumagai silicon by cutoff (Å), each made once."""
    made = {}

    def of(cutoff):
        if cutoff not in made:
            made[cutoff] = TaylorForces.from_calculator(kumagai(), silicon, order=1, cutoff=cutoff)
        return made[cutoff]

    return of


def note(benchmark, n_atoms, **values):
    """Put size, µs/atom of the fastest round, and `values` beside the times."""
    benchmark.extra_info["atoms"] = n_atoms
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_atom"] = round(benchmark.stats.stats.min / n_atoms * 1e6, 4)
    benchmark.extra_info.update(values)


def reset_peak_memory():
    """Let the kernel count the peak of the resident memory from now on (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def memory(key):
    """Resident memory now ("VmRSS") or at its peak ("VmHWM") in MB; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":")), None)
