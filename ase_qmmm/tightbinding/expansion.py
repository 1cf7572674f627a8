"""Derivatives of the grand potential around one site, summed over poles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from .greens import CrystalMatrices
from .pair_tables import Onsite
from .perturbation import Region
from .poles import FermiPoles
from .traces import Pattern, Source, Symmetric, bilinear, double_sandwich, sandwich

__all__ = ["Expansion", "repulsive_derivatives", "repulsive_fourth"]


class Expansion:
    """Derivatives of log det sums over the poles around one basis atom, for one spin."""

    def __init__(
        self,
        region: Region,
        matrices: CrystalMatrices,
        poles: FermiPoles,
        sources: list[Source],
        residues: np.ndarray,
        progress: bool = False,
    ) -> None:
        self.region = region
        self.matrices = matrices
        self.poles = poles
        self.sources = sources
        self.residues = residues
        self.progress = progress

    def resolvents(self) -> Iterator[tuple[Symmetric, complex, complex]]:
        """G, pole and residue."""
        region = self.region
        terms = zip(self.poles.poles, self.residues, strict=True)
        bar = tqdm(
            terms, "derivatives", len(self.residues), leave=False, disable=not self.progress, mininterval=1.0
        )
        for z, rho in bar:
            g = self.matrices.gather(self.matrices.resolvent(z), region.basis, region.cells)
            yield Symmetric(region, dense=region.spread(g)), complex(z), complex(rho)

    def first(self) -> np.ndarray:
        """(sources, n_d, 3)."""
        region, base = self.region, Source(self.region)
        density = Pattern(region)
        singles = [Pattern(region) for _ in self.sources]
        for g, z, rho in self.resolvents():
            density.add(g, rho, z)
            for single, source in zip(singles, self.sources, strict=True):
                single.add(sandwich(g, source, z), rho, z)
        return np.array(
            [s.first(density) - base.first(single) for s, single in zip(self.sources, singles, strict=True)]
        )

    def second(self) -> np.ndarray:
        """(sources, n_d, 3, n_d, 3)."""
        region, base = self.region, Source(self.region)
        density = Pattern(region)
        singles = [Pattern(region) for _ in self.sources]
        n = region.n_displaced
        out = np.zeros((len(self.sources), n, 3, n, 3))
        for g, z, rho in self.resolvents():
            density.add(g, rho, z)
            rows = (base.family.rows(z), base.family.diagonal)
            for k, (single, source) in enumerate(zip(singles, self.sources, strict=True)):
                x = sandwich(g, source, z)
                single.add(x, rho, z)
                own = (source.family.rows(z), source.family.diagonal)
                cross = bilinear(g, own, g, rows)
                both = 2 * bilinear(x, rows, g, rows) - cross - cross.transpose(2, 3, 0, 1)
                out[k] += 2 * (rho * both).real
        for k, (single, source) in enumerate(zip(singles, self.sources, strict=True)):
            out[k] += source.second(density) - base.second(single)
        return out

    def third(self, chosen: np.ndarray) -> np.ndarray:
        """(sources, len(chosen), 3, n_d, 3, n_d, 3) for the displaced atoms `chosen` as the first index."""
        region, base = self.region, Source(self.region)
        n = region.n_displaced
        steps = [(int(region.displaced[m]), axis) for m in chosen for axis in range(3)]
        ones = [base.and_then(*step) for step in steps]
        pairs = [[s.and_then(*step) for step in steps] for s in self.sources]
        density = Pattern(region)
        of_source = [Pattern(region) for _ in self.sources]
        of_one = [Pattern(region) for _ in steps]
        of_both = [[Pattern(region) for _ in steps] for _ in self.sources]
        out = np.zeros((len(self.sources), len(steps), n, 3, n, 3))

        def both_ways(x: np.ndarray) -> np.ndarray:
            summed: np.ndarray = x + x.transpose(2, 3, 0, 1)
            return summed

        for g, z, rho in self.resolvents():
            density.add(g, rho, z)
            base_rows = (base.family.rows(z), base.family.diagonal)
            singles = [sandwich(g, s, z) for s in self.sources]
            own = [(s.family.rows(z), s.family.diagonal) for s in self.sources]
            for pattern, x in zip(of_source, singles, strict=True):
                pattern.add(x, rho, z)
            for a, one in enumerate(ones):
                x1 = sandwich(g, one, z)
                of_one[a].add(x1, rho, z)
                rows1 = (one.family.rows(z), one.family.diagonal)
                for k, x0 in enumerate(singles):
                    pair = pairs[k][a]
                    rows01 = (pair.family.rows(z), pair.family.diagonal)
                    x01 = double_sandwich(x0, one, g, z, sandwich(g, pair, z))
                    of_both[k][a].add(x01, rho, z)
                    total = both_ways(
                        2 * bilinear(x1, own[k], g, base_rows)
                        + 2 * bilinear(x0, rows1, g, base_rows)
                        - bilinear(g, rows01, g, base_rows)
                        - bilinear(g, own[k], g, rows1)
                    )
                    total -= 2 * bilinear(x01, base_rows, g, base_rows)
                    total -= 2 * bilinear(x0, base_rows, x1, base_rows)
                    out[k, a] += 2 * (rho * total).real
        for k, source in enumerate(self.sources):
            for a, one in enumerate(ones):
                out[k, a] += pairs[k][a].second(density) + base.second(of_both[k][a])
                out[k, a] -= one.second(of_source[k]) + source.second(of_one[a])
        shaped: np.ndarray = out.reshape(len(self.sources), len(chosen), 3, n, 3, n, 3)
        return shaped


def repulsive_derivatives(region: Region, kind: str, order: int, chosen: np.ndarray) -> np.ndarray:
    """The share of the repulsive energy, in the shape of the derivatives of :class:`Expansion`."""
    # Of the energy of the middle site, or minus that of all sites by a displacement of the middle one.
    weights = -np.ones(region.n_sites)
    fixed: list[tuple[tuple[int, int], ...]] = [((0, c),) for c in range(3)]
    if kind == "energy":
        weights = (np.arange(region.n_sites) == 0).astype(float)
        fixed = [()]
    if order < 3:
        shares = [Onsite(region, f, True) for f in fixed]
        return np.array([s.first(weights) if order == 1 else s.second(weights) for s in shares])
    steps = [(int(region.displaced[m]), axis) for m in chosen for axis in range(3)]
    out = np.array([[Onsite(region, (*f, step), True).second(weights) for step in steps] for f in fixed])
    return out.reshape(len(fixed), len(chosen), 3, *out.shape[2:])


def repulsive_fourth(region: Region, pairs: list[tuple[int, int]]) -> np.ndarray:
    """That of the site energy in the shape of :func:`~ase_qmmm.tightbinding.fourth.fourth_derivatives`."""
    weights = (np.arange(region.n_sites) == 0).astype(float)
    out = []
    for pair in pairs:
        a, b = (int(site) for site in region.displaced[list(pair)])
        steps = [((a, x), (b, y)) for x in range(3) for y in range(3)]
        out.append([Onsite(region, both, True).second(weights) for both in steps])
    shape = (1, len(pairs), 3, 3, *(region.n_displaced, 3) * 2)
    return np.array(out).reshape(shape)
