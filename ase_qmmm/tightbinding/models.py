"""From what a user gives as `model` to a Hamiltonian."""

from __future__ import annotations

import os

from .hamiltonian import Hamiltonian
from .kwon import KwonModel
from .nrl import NRLModel, nrl_names
from .nrl_files import is_parameter_file, unknown_name
from .toy import ToyModel

__all__ = ["load_model", "model_names"]


def model_names() -> list[str]:
    """Names that :class:`~ase_qmmm.TightBinding` takes, e.g. ``nrl-Si-sp``, ``kwon-Si``, ``toy``."""
    return [*nrl_names(), "kwon-Si", "toy"]


def load_model(model: str | os.PathLike[str] | Hamiltonian, cutoff_form: str = "smooth") -> Hamiltonian:
    """Hamiltonian of a name or of a file of NRL parameters, or the object itself.

    Parameters
    ----------
    model : str, os.PathLike or Hamiltonian
        One of :func:`model_names`; a path that ends in ``.json``, ``.json#set`` or ``.par``; an object.
    cutoff_form : {"smooth", "original"}
        For models that know both; "smooth" leaves an object as it is.

    Raises
    ------
    ValueError
        Unknown name; a file that does not hold what it should; a cutoff that the model does not know.
    FileNotFoundError
    TypeError
        Neither a name nor a path nor a :class:`Hamiltonian`.
    """
    if isinstance(model, Hamiltonian):
        return model if cutoff_form == "smooth" else model.with_cutoff_form(cutoff_form)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(f"model: got {type(model).__name__}, expected a name, a path or a Hamiltonian")
    if is_parameter_file(model) or str(model).startswith("nrl-"):
        return NRLModel(model, cutoff_form)
    if model == "kwon-Si":
        return KwonModel(cutoff_form)
    if model == "toy":
        return load_model(ToyModel(), cutoff_form)
    raise unknown_name(str(model), model_names())
