// What every binding file includes. An area's file is binding/<area>.cpp and defines
// void bind_<area>(pybind11::module_&); the build finds it by its name.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "ernie/check.h"
#include "ernie/context.h"
#include "ernie/tensor.h"

namespace py = pybind11;

// None in Python is the tensor that is not defined.
using OptionalTensor = std::optional<ernie::Tensor>;
inline ernie::Tensor or_none(const OptionalTensor& tensor) { return tensor.value_or(ernie::Tensor()); }
