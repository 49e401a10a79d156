"""ERNIE-4.5 models, written once over `backend.ops`."""

from backend.models.model import Model, build_model
from backend.models.parameters import ParameterSpec, parameter_specs

__all__ = ["Model", "ParameterSpec", "build_model", "parameter_specs"]
