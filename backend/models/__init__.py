"""ERNIE-4.5 models, written once over `backend.ops`."""

from backend.models.parameters import ParameterKind, ParameterSpec, parameter_specs

__all__ = ["ParameterKind", "ParameterSpec", "parameter_specs"]
