// Tensors from and to other libraries without a copy.
#pragma once

#include "ernie/bindings.h"
#include "ernie/dlpack.h"

// A capsule that shares the tensor's memory. `stream` is the consumer's, as the array API says:
// None or 1 the legacy default stream, 2 the per-thread one, -1 no synchronisation.
py::capsule to_dlpack(const ernie::Tensor& tensor, const py::object& stream);

// A tensor of any object with __dlpack__: shared when its memory is on the context's device, copied
// when it is on the host.
ernie::Tensor from_dlpack(const std::shared_ptr<ernie::Context>& context, const py::object& source);

// (device type, dtype, shape, strides in elements) of what `source` exports.
py::tuple dlpack_layout(const py::object& source);
