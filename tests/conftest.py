"""Models and structures shared by the tests, and what is the same in every run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import settings
from taylor_fixtures import density_model
from threadpoolctl import threadpool_limits

from ase_qmmm import (
    EAM,
    ACEBasis,
    ACEPotential,
    Crystal,
    TaylorForces,
    TaylorPotential,
    TaylorSeries,
    TightBinding,
    YACEPotential,
)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes whose BLAS threads wait for each other take many times longer than one thread each.
    threadpool_limits(1)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def nrl_reference():
    return json.loads((DATA / "nrl_tb_reference.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def silicon_qm():
    return TightBinding("nrl-Si-sp", kT=0.1)


@pytest.fixture(scope="session")
def silicon_crystal(silicon_qm):
    return Crystal.relaxed(bulk("Si"), silicon_qm)


@pytest.fixture(scope="session")
def silicon_mm(silicon_qm, silicon_crystal):
    return TaylorForces.from_calculator(silicon_qm, silicon_crystal, cutoff=5.0)


@pytest.fixture(scope="session")
def silicon_ace():
    """Random coefficients that fall with the degree."""
    basis = ACEBasis("Si", order=3, degree=8, cutoff=5.0)
    falling = np.exp(-0.5 * np.array([f.degree for f in basis.functions]))
    return ACEPotential(basis, 0.02 * falling * np.random.default_rng(3).normal(size=len(basis)))


@pytest.fixture(scope="session")
def silicon_yace(silicon_ace, tmp_path_factory):
    """The cluster functions of the same model."""
    path = tmp_path_factory.mktemp("yace") / "Si.yace"
    silicon_ace.export_lammps(path)
    return YACEPotential(path)


@pytest.fixture(scope="session")
def copper_crystal():
    return Crystal.relaxed(bulk("Cu"), EMT())


@pytest.fixture(scope="session")
def copper_mm(copper_crystal):
    return TaylorForces.from_calculator(EMT(), copper_crystal, cutoff=6.0)


@pytest.fixture(scope="session")
def taylor_models(silicon_mm):
    """TaylorForces of orders one and two, and TaylorPotential."""
    qm, crystal = density_model("diamond")
    tungsten = Crystal(bulk("W", a=3.1648494))
    return {
        "TaylorForces": silicon_mm,
        "TaylorForces-2": TaylorForces.from_calculator(qm, crystal, order=2, cutoff=2 * qm.cutoff),
        "TaylorPotential": TaylorPotential.from_calculator(qm, crystal, order=3, cutoff=qm.cutoff),
        "TaylorSeries": TaylorSeries.from_calculator(EAM("W-zhou04"), tungsten, order=5, cutoff=3.5),
    }


@pytest.fixture(
    params=[
        "TightBinding",
        "TightBinding-mu",
        "TightBinding-Kwon",
        "TightBinding-toy",
        "TaylorForces",
        "TaylorForces-2",
        "TaylorPotential",
        "TaylorSeries",
        "EAM",
        "ACE",
        "YACE",
    ]
)
def model(request, taylor_models, silicon_ace, silicon_yace):
    """A model, and a structure that it treats."""
    if request.param in taylor_models:
        return taylor_models[request.param], taylor_models[request.param].crystal.supercell(2)
    if request.param == "ACE":
        return silicon_ace, bulk("Si", cubic=True)
    if request.param == "YACE":
        return silicon_yace, bulk("Si", cubic=True)
    if request.param == "EAM":
        return EAM("W-zhou04"), bulk("W", a=3.165, cubic=True).repeat((1, 1, 2))
    if request.param == "TightBinding-Kwon":
        return TightBinding("kwon-Si"), bulk("Si", cubic=True)
    if request.param == "TightBinding-toy":
        return TightBinding("toy"), bulk("Ni", a=3.54, cubic=True)
    return TightBinding(mu=5.8 if "mu" in request.param else None), bulk("Si", cubic=True)
