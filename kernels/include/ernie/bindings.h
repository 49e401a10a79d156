// What every binding file includes. An area's file is binding/<area>.cpp and defines
// void bind_<area>(pybind11::module_&); the build finds it by its name.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "ernie/check.h"
#include "ernie/context.h"
#include "ernie/tensor.h"

namespace py = pybind11;
