"""Energies of linear ``.yace`` files, slow and obvious: complex harmonics, loops, no tables, no package code.

Formulas: Y. Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021), with the conventions of the ML-PACE library.
"""

from __future__ import annotations

from math import factorial

import numpy as np
import yaml
from ase.neighborlist import neighbor_list
from scipy.special import lpmv


class _Loader(yaml.SafeLoader):
    """Lists may be keys."""


def _mapping(loader, node):
    out = {}
    for key, value in node.value:
        k = loader.construct_object(key, deep=True)
        out[tuple(k) if isinstance(k, list) else k] = loader.construct_object(value, deep=True)
    return out


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load(text):
    return yaml.load(text, Loader=_Loader)  # a safe loader


def harmonic(l, m, u):
    """Complex, with the Condon-Shortley phase, Y_00 = 1."""
    if m < 0:
        return (-1) ** m * np.conj(harmonic(l, -m, u))
    norm = np.sqrt((2 * l + 1) * factorial(l - m) / factorial(l + m))
    return norm * lpmv(m, l, u[2]) * np.exp(1j * m * np.arctan2(u[1], u[0]))


def descent(r, end, width):
    """1 up to end - width, 0 from end on."""
    if r <= end - width:
        return 1.0
    if r >= end:
        return 0.0
    x = 1 - 2 * (1 + (r - end) / width)
    return 0.5 + 7.5 / 2 * (x / 4 - x**3 / 6 + x**5 / 20)


def sinc(x):
    return np.sin(x) / x


def radial(bond, r):
    """g_k."""
    K, rc, name = bond["nradbasemax"], float(bond["rcut"]), bond["radbasename"]
    lam, dc = float(bond["radparameters"][0]), float(bond["dcut"])
    T = lambda k, x: np.cos(k * np.arccos(np.clip(x, -1, 1)))  # noqa: E731
    if name == "ChebExpCos":
        x = 1 - 2 * (np.exp(-lam * r / rc) - np.exp(-lam)) / (1 - np.exp(-lam))
        g = np.array([1.0] + [0.5 - 0.5 * T(k, x) for k in range(1, K)])
        g *= 0.5 * (1 + np.cos(np.pi * r / rc))
        if r > rc - dc:
            g *= 0.5 * (1 + np.cos(np.pi * (r - rc + dc) / dc))
    elif name == "ChebPow":
        x = 2 * (1 - (1 - r / rc) ** lam) - 1
        g = np.array([0.5 - 0.5 * T(k, x) for k in range(1, K + 1)])
    elif name == "SBessel":
        f = [
            (-1) ** n * np.sqrt(2) * np.pi / rc**1.5 * (n + 1) * (n + 2) / np.hypot(n + 1, n + 2)
            * (sinc(r * (n + 1) * np.pi / rc) + sinc(r * (n + 2) * np.pi / rc))
            for n in range(K)
        ]  # fmt: skip
        g, d = [f[0]], 1.0
        for n in range(1, K):
            e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
            d, old = 1 - e / d, d
            g.append((f[n] + np.sqrt(e / old) * g[-1]) / np.sqrt(d))
        g = np.array(g)
    if bond.get("inner_cutoff_type", "density") == "distance":
        g = g * (1 - descent(r, float(bond["rcut_in"]), float(bond["dcut_in"])))
    return g


def core(bond, r):
    pre, lam = abs(float(bond["prehc"])), abs(float(bond["lambdahc"]))
    if lam * r * r >= 50:
        return 0.0
    value = pre * np.exp(-lam * r * r) / r * 0.5 * (1 + np.cos(np.pi * r / float(bond["rcut"])))
    if bond.get("inner_cutoff_type", "density") == "distance":
        value *= descent(r, float(bond["rcut_in"]), float(bond["dcut_in"]))
    return value


def site_energies(file, atoms):
    """Energies (n,) of the atoms; `file` from :func:`load`. Densities of a linear embedding only."""
    names = file["elements"]
    cutoff = max(float(b["rcut"]) for b in file["bonds"].values())
    i, j, D = neighbor_list("ijD", atoms, cutoff)
    out = np.zeros(len(atoms))
    for a in range(len(atoms)):
        z0 = names.index(atoms.symbols[a])
        functions = file["functions"][z0]
        A, A1, rho_core = {}, {}, 0.0
        for b, d in zip(j[i == a], D[i == a], strict=True):
            z, r = names.index(atoms.symbols[b]), np.linalg.norm(d)
            bond = file["bonds"][z0, z]
            if r >= float(bond["rcut"]):
                continue
            g = radial(bond, r)
            A1[z] = A1.get(z, 0.0) + g
            R = np.array(bond["radcoefficients"], dtype=float) @ g
            for l in range(R.shape[1] if R.size else 0):
                for m in range(-l, l + 1):
                    A[z, l, m] = A.get((z, l, m), 0.0) + R[:, l] * harmonic(l, m, d / r)
            rho_core += core(bond, r)
        rho = 0.0
        for f in functions:
            rank = f["rank"]
            if rank == 1:
                if f["mus"][0] in A1:
                    rho += float(f["ctildes"][0]) * A1[f["mus"][0]][f["ns"][0] - 1]
                continue
            for c in range(f["num_ms_combs"]):
                product = 1.0
                for t, m in enumerate(f["ms_combs"][c * rank : (c + 1) * rank]):
                    channel = A.get((f["mus"][t], f["ls"][t], m))
                    product = product * (0.0 if channel is None else channel[f["ns"][t] - 1])
                rho += float(f["ctildes"][c]) * np.real(product)
        embedding = file["embeddings"][z0]
        (weight, exponent), limit = embedding["FS_parameters"], float(embedding["rho_core_cutoff"])
        assert embedding["ndensity"] == 1
        assert exponent == 1
        switch = descent(rho_core, limit, float(embedding["drho_core_cutoff"]))
        out[a] = switch * float(weight) * rho + rho_core + float(file["E0"][z0])
    return out


def energy(file, atoms):
    return site_energies(file, atoms).sum()
