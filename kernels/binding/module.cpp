// The module kernels._kernels: every area's bindings.
#include "ernie/bindings.h"

#define ERNIE_AREA(area) void bind_##area(py::module_&);
#include "areas.inc"
#undef ERNIE_AREA

PYBIND11_MODULE(_kernels, module) {
  module.doc() = "CUDA kernels of the native executor; use the package `kernels`.";
  bind_core(module);  // first: the others' signatures name its types
#define ERNIE_AREA(area) \
  if (std::string(#area) != "core") bind_##area(module);
#include "areas.inc"
#undef ERNIE_AREA
}
