"""From what a user gives as `model` to a Hamiltonian."""

from __future__ import annotations

import os

from .hamiltonian import Hamiltonian
from .nrl import NRLModel

__all__ = ["load_model"]


def load_model(model: str | os.PathLike[str] | Hamiltonian, cutoff_form: str = "smooth") -> Hamiltonian:
    """Hamiltonian of a name, or the object itself.

    Raises
    ------
    ValueError
        Unknown name.
    TypeError
        Neither a name nor a :class:`Hamiltonian`.
    """
    if isinstance(model, Hamiltonian):
        return model
    if isinstance(model, str):
        return NRLModel(model, cutoff_form)
    raise TypeError(f"model: got {type(model).__name__}, expected a name or a Hamiltonian")
