"""The contract that every calculator keeps, as one public test: :func:`check_calculator`."""

from .check import PROMISES, check_calculator

__all__ = ["PROMISES", "check_calculator"]
