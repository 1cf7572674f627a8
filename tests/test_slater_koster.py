"""Slater–Koster blocks: rotation, parity and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_derivative, random_rotation

from ase_qmmm.tightbinding import kernels
from ase_qmmm.tightbinding.radial import exponential, polynomial
from ase_qmmm.tightbinding.slater_koster import CHANNELS, shell_channels, shell_terms, two_centre_block

PAIRS = [(l1, l2) for l1 in range(3) for l2 in range(3)]


def radial(l1, l2, vectors, order):
    """A different smooth function for each channel."""
    r = np.linalg.norm(vectors, axis=1)
    out = []
    for name in shell_channels(l1, l2):
        k = CHANNELS.index(name)
        out.append((1.0 + 0.3 * k) * exponential(0.5 + 0.07 * k, r, order) + polynomial([0.1 * k], r, order))
    return np.array(out)


def block(l1, l2, vectors, order=0):
    vectors = np.atleast_2d(vectors)
    return two_centre_block(l1, l2, vectors, radial(l1, l2, vectors, order))


def harmonics(shell, directions):
    """Real harmonics of a shell as functions of direction, in the order and sign of the blocks with s."""
    r = np.linalg.norm(directions, axis=1)
    return two_centre_block(0, shell, directions, np.ones((1, 1, len(r))))[0][:, 0]


def rotation_matrix(shell, rotation, rng):
    """Matrix D of ``Y(R x) = D Y(x)``, found from the values of the harmonics at points."""
    points = rng.normal(size=(20, 3))
    return np.linalg.lstsq(harmonics(shell, points), harmonics(shell, points @ rotation.T), rcond=None)[0].T


@pytest.mark.parametrize(("l1", "l2"), PAIRS)
def test_rotation(l1, l2, rng):
    rotation = random_rotation(rng)
    vector = rng.normal(size=3)
    first, second = rotation_matrix(l1, rotation, rng), rotation_matrix(l2, rotation, rng)
    assert np.abs(first @ first.T - np.eye(2 * l1 + 1)).max() < 1e-12
    turned = block(l1, l2, rotation @ vector)[0][0]
    assert np.abs(turned - first @ block(l1, l2, vector)[0][0] @ second.T).max() < 1e-12


@pytest.mark.parametrize(("l1", "l2"), PAIRS)
def test_turning_the_bond_transposes(l1, l2, rng):
    vector = rng.normal(size=3)
    assert np.abs(block(l1, l2, vector)[0][0] - block(l2, l1, -vector)[0][0].T).max() < 1e-13


@pytest.mark.parametrize(("l1", "l2"), PAIRS)
def test_along_z_a_block_is_its_channels(l1, l2):
    z = np.array([0.0, 0.0, 2.0])
    functions = radial(l1, l2, z[None], 0)[:, 0, 0]
    singular = np.linalg.svd(block(l1, l2, z)[0][0], compute_uv=False)
    # sigma once, pi and delta twice
    expected = [functions[0], *(f for f in functions[1:] for _ in range(2))]
    assert np.sort(singular) == pytest.approx(np.sort(np.abs(expected)))


@pytest.mark.parametrize(("l1", "l2"), PAIRS)
def test_derivatives(l1, l2, rng):
    vector, u = rng.normal(size=3) + 1.5, rng.normal(size=3)
    tensors = block(l1, l2, vector, 6)
    for order in range(1, 7):
        here = tensors[order][0]
        assert_derivative(
            lambda h, k=order: block(l1, l2, vector + h * u, k)[k - 1][0],
            np.tensordot(u, here, 1),
            noise=1e-12,
        )
        assert np.abs(here - here.swapaxes(0, order - 1)).max() < 1e-12
        lower = block(l1, l2, vector, order)
        assert np.abs(lower[order][0] - here).max() < 1e-12
    with pytest.raises(ValueError, match="at most 6"):
        block(l1, l2, vector, 7)


@pytest.mark.parametrize(("l1", "l2"), PAIRS)
@pytest.mark.parametrize("order", [0, 1])
def test_compiled_blocks(l1, l2, order, rng):
    """The compiled loop over the terms of the polynomials makes the same blocks."""
    vectors = rng.normal(size=(5, 3))
    functions = np.array(
        [radial(l1, l2, vectors, order), rng.normal(size=1) * radial(l1, l2, vectors, order)]
    )
    shape = (2 * l1 + 2, 2 * l2 + 2)  # a border of one to the left and on top, which stays zero
    h0, m0 = np.zeros((2, 5, *shape))
    h1, m1 = np.zeros((2, 5, 3, *shape))
    kernels.shell_blocks(vectors, *functions, l1 + l2, *shell_terms(l1, l2), 1, 1, h0, h1, m0, m1)
    for value, slope, f in ((h0, h1, functions[0]), (m0, m1, functions[1])):
        expected = two_centre_block(l1, l2, vectors, f)
        assert np.abs(value[:, 1:, 1:] - expected[0]).max() < 1e-13
        assert not value[:, 0].any() and not value[:, :, 0].any()
        if order:
            assert np.abs(slope[:, :, 1:, 1:] - expected[1]).max() < 1e-13


def test_channels():
    assert shell_channels(1, 1) == ("pps", "ppp")
    assert shell_channels(2, 1) == shell_channels(1, 2) == ("pds", "pdp")
