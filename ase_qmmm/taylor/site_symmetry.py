"""Derivative tensors of a site under the operations of its crystal."""

from __future__ import annotations

import itertools

import numpy as np

from ..symmetry import Operation

__all__ = ["inequivalent_pairs", "spread", "spread_pairs", "symmetrised", "taken", "turned"]


def spread(
    part: np.ndarray, chosen: np.ndarray, own: list[Operation], permutations: list[np.ndarray], kind: str
) -> np.ndarray:
    """A tensor known for some atoms as the first index, for all atoms by the operations of the site."""
    axis = 1 if kind == "force" else 0
    order = part.ndim // 2
    size = len(permutations[0])
    shape = list(part.shape)
    shape[axis] = size
    out = np.zeros(shape)
    done = np.zeros(size, dtype=bool)
    for op, permutation in zip(own, permutations, strict=True):
        for k, m in enumerate(chosen):
            image = int(permutation[m])
            if done[image]:
                continue
            done[image] = True
            rotated = turned(np.take(part, [k], axis=axis), op.rotation, kind, order)
            # Atom n of the tensor here is atom permutation[n] of its image.
            inverse = np.argsort(permutation)
            for later in range(axis + 2, axis + 2 * order, 2):
                rotated = np.take(rotated, inverse, axis=later)
            out[(slice(None),) * axis + (image,)] = rotated[(slice(None),) * axis + (0,)]
    return out


def inequivalent_pairs(permutations: list[np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of atoms, one of each set that the operations of the site and exchange map onto each other."""
    size = len(permutations[0])
    out = []
    done = np.zeros((size, size), dtype=bool)
    for a, b in itertools.combinations_with_replacement(range(size), 2):
        if not done[a, b]:
            out.append((a, b))
            for p in permutations:
                done[p[a], p[b]] = done[p[b], p[a]] = True
    return out


def spread_pairs(
    part: np.ndarray, pairs: list[tuple[int, int]], own: list[Operation], permutations: list[np.ndarray]
) -> np.ndarray:
    """A tensor (pairs, 3, 3, s, 3, s, 3) known for some pairs of atoms as the first indices, for all."""
    size = len(permutations[0])
    out = np.zeros((size, 3) * 4)
    done = np.zeros((size, size), dtype=bool)
    for op, permutation in zip(own, permutations, strict=True):
        inverse = np.argsort(permutation)
        for tensor, (a, b) in zip(part, pairs, strict=True):
            i, j = permutation[a], permutation[b]
            if done[i, j]:
                continue
            done[i, j] = done[j, i] = True
            image = tensor[:, :, inverse][:, :, :, :, inverse]
            for axis in (0, 1, 3, 5):
                image = np.moveaxis(np.tensordot(op.rotation, image, axes=(1, axis)), 0, axis)
            out[i, :, j] = image
            if i != j:
                out[j, :, i] = image.swapaxes(0, 1)
    return out


def symmetrised(tensor: np.ndarray) -> np.ndarray:
    """Mean over all orders of the indices (s, 3, s, 3, ..)."""
    order = tensor.ndim // 2
    out = np.zeros_like(tensor)
    permutations = list(itertools.permutations(range(order)))
    for p in permutations:
        out += tensor.transpose([axis for k in p for axis in (2 * k, 2 * k + 1)])
    out /= len(permutations)
    return out


def turned(tensor: np.ndarray, rotation: np.ndarray, kind: str, order: int) -> np.ndarray:
    """All Cartesian indices turned by a rotation."""
    axes = [0] if kind == "force" else []
    axes += [len(axes) + 2 * k + 1 for k in range(order)]
    for axis in axes:
        tensor = np.moveaxis(np.tensordot(rotation, tensor, axes=(1, axis)), 0, axis)
    return tensor


def taken(tensor: np.ndarray, index: np.ndarray, kind: str, order: int) -> np.ndarray:
    """Atoms of all indices picked by `index`."""
    first = 1 if kind == "force" else 0
    for k in range(order):
        tensor = np.take(tensor, index, axis=first + 2 * k)
    return tensor
