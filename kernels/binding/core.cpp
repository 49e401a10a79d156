// Context, Tensor, Graph, Event and read-backs.
#include <pybind11/numpy.h>

#include <cstring>

#include "dlpack.h"
#include "ernie/graph.h"
#include "ernie/pool.h"
#include "ernie/staging.h"
#include "ernie/storage.h"

namespace {

using ernie::Context;
using ernie::DType;
using ernie::Readback;
using ernie::Tensor;
using ContextPtr = std::shared_ptr<Context>;

const char* numpy_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:  // NumPy has none; its values arrive and leave as float32
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kU8:
      return "uint8";
    case DType::kI8:
      return "int8";
    case DType::kBool:
      return "bool";
    case DType::kU16:
      return "uint16";
  }
  ernie::fail("unknown dtype");
}

std::string describe(const py::array& array) {
  return py::str(array.dtype()).cast<std::string>() + " " +
         py::str(array.attr("shape")).cast<std::string>();
}

DType inferred_dtype(const py::array& array) {
  const char kind = array.dtype().kind();
  const auto bytes = array.itemsize();
  if (kind == 'f' && bytes == 2) return DType::kF16;
  if (kind == 'f' && (bytes == 4 || bytes == 8)) return DType::kF32;
  if (kind == 'i' && bytes == 1) return DType::kI8;
  if (kind == 'i' && bytes == 4) return DType::kI32;
  if (kind == 'i' && bytes == 8) return DType::kI64;
  if (kind == 'u' && bytes == 1) return DType::kU8;
  if (kind == 'u' && bytes == 2) return DType::kU16;
  if (kind == 'b') return DType::kBool;
  ernie::fail("upload: dtype " + py::str(array.dtype()).cast<std::string>() +
              " needs an explicit dtype=");
}

// The array in C order with the NumPy dtype that stands for `dtype`; integers must keep their value.
py::array converted(const py::array& array, DType dtype) {
  const py::module_ numpy = py::module_::import("numpy");
  const bool are_bits =
      dtype == DType::kBF16 && array.dtype().kind() == 'u' && array.itemsize() == 2;
  const char* target = are_bits ? "uint16" : numpy_name(dtype);
  py::array dense = numpy.attr("ascontiguousarray")(array, py::arg("dtype") = target);
  const bool was_integer = array.dtype().kind() == 'i' || array.dtype().kind() == 'u';
  const bool is_integer = dtype == DType::kI32 || dtype == DType::kI64 || dtype == DType::kI8 ||
                          dtype == DType::kU8 || dtype == DType::kU16;
  if (was_integer && is_integer && !array.dtype().equal(dense.dtype())) {
    if (!numpy.attr("array_equal")(dense, array).cast<bool>()) {
      ernie::fail("upload: values of " + describe(array) + " do not fit into " +
                  ernie::name_of(dtype));
    }
  }
  return dense;
}

uint16_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void fill(const Tensor& tensor, const py::array& array) {
  const py::array dense = converted(array, tensor.dtype());
  ernie::StagingRing& staging = tensor.context().staging();
  if (tensor.dtype() != DType::kBF16 || dense.dtype().kind() == 'u') {
    staging.upload(tensor.data(), dense.data(), tensor.nbytes());
    return;
  }
  const float* values = static_cast<const float*>(dense.data());
  staging.upload(tensor.data(), tensor.nbytes(), sizeof(uint16_t),
                 [values](void* target, size_t offset, size_t bytes) {
                   uint16_t* bits = static_cast<uint16_t*>(target);
                   const float* source = values + offset / sizeof(uint16_t);
                   for (size_t i = 0; i < bytes / sizeof(uint16_t); ++i) bits[i] = bf16_bits(source[i]);
                 });
}

Tensor upload(const ContextPtr& context, const py::array& array, std::optional<DType> dtype) {
  std::vector<int64_t> shape(array.shape(), array.shape() + array.ndim());
  Tensor tensor = context->empty(std::move(shape), dtype ? *dtype : inferred_dtype(array));
  fill(tensor, array);
  return tensor;
}

void copy_from(const Tensor& tensor, const py::array& array) {
  const std::vector<int64_t> shape(array.shape(), array.shape() + array.ndim());
  if (shape != tensor.shape()) {
    ernie::fail("copy_from: expected the shape of " + tensor.describe() + ", found " +
                describe(array));
  }
  if (!tensor.is_contiguous()) ernie::fail("copy_from: the tensor must be contiguous");
  fill(tensor, array);
}

py::array numpy_of(const Readback& readback) {
  {
    const py::gil_scoped_release release;
    readback.wait();
  }
  py::array array(py::dtype(numpy_name(readback.dtype())), readback.shape());
  if (readback.dtype() != DType::kBF16) {
    std::memcpy(array.mutable_data(), readback.data(),
                readback.numel() * ernie::size_of(readback.dtype()));
    return array;
  }
  uint32_t* values = static_cast<uint32_t*>(array.mutable_data());
  const uint16_t* bits = static_cast<const uint16_t*>(readback.data());
  for (size_t i = 0; i < readback.numel(); ++i) values[i] = static_cast<uint32_t>(bits[i]) << 16;
  return array;
}

// The tensor for kernels and the array that shares its memory, for as long as either is in use.
py::tuple host_array(const ContextPtr& context, std::vector<int64_t> shape, DType dtype) {
  if (dtype == DType::kBF16) ernie::fail("host_array: NumPy has no bf16; take u16 for its bits");
  const Tensor tensor = ernie::host_tensor(context, std::move(shape), dtype);
  using Owner = std::shared_ptr<ernie::Storage>;
  const py::capsule owner(new Owner(tensor.storage()),
                          [](void* pointer) { delete static_cast<Owner*>(pointer); });
  return py::make_tuple(
      tensor, py::array(py::dtype(numpy_name(dtype)), tensor.shape(), tensor.data(), owner));
}

class Event {
 public:
  Event(ContextPtr context, bool sleeps) : context_(std::move(context)) {
    context_->activate();
    const unsigned flags = cudaEventBlockingSync | cudaEventDisableTiming;
    ERNIE_CUDA(cudaEventCreateWithFlags(&event_, sleeps ? flags : cudaEventDefault));
  }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() {
    if (context_->is_capturing()) ernie::fail("record: not possible while a graph is captured");
    ERNIE_CUDA(cudaEventRecord(event_, context_->stream()));
  }
  bool is_ready() const {
    const cudaError_t code = cudaEventQuery(event_);
    if (code != cudaErrorNotReady && code != cudaSuccess) ernie::throw_cuda_error(code, "cudaEventQuery");
    cudaGetLastError();
    return code == cudaSuccess;
  }
  void synchronize() const { ERNIE_CUDA(cudaEventSynchronize(event_)); }
  float elapsed_ms(const Event& end) const {
    float ms = 0.f;
    ERNIE_CUDA(cudaEventElapsedTime(&ms, event_, end.event_));
    return ms;
  }

 private:
  ContextPtr context_;
  cudaEvent_t event_ = nullptr;
};

void zero(const Tensor& tensor) {
  if (tensor.nbytes() == 0) return;
  ERNIE_CUDA(cudaMemsetAsync(tensor.data(), 0, tensor.nbytes(), tensor.context().stream()));
}

void bind_tensor(py::module_& module) {
  py::class_<Tensor>(module, "Tensor",
                     "Memory on the device with a dtype and a shape; copies share it.")
      .def_property_readonly("shape", [](const Tensor& t) { return py::tuple(py::cast(t.shape())); })
      .def_property_readonly("dtype", &Tensor::dtype)
      .def_property_readonly("strides", [](const Tensor& t) { return py::tuple(py::cast(t.strides())); },
                             "In elements.")
      .def_property_readonly("nbytes", &Tensor::nbytes)
      .def_property_readonly("address", [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data()); })
      .def("numpy", [](const Tensor& t) { return numpy_of(Readback(t)); },
           "The contents as an array; bf16 arrives as float32. Waits for the stream.")
      .def("copy_from", &copy_from, py::arg("array"),
           "Overwrite with an array of this shape, in stream order; returns at once.")
      .def("view",
           [](const Tensor& t, std::vector<int64_t> shape, std::optional<DType> dtype) {
             return (dtype ? t.view_as(*dtype) : t).view(std::move(shape));
           },
           py::arg("shape"), py::arg("dtype") = py::none(),
           "The same memory with another shape (one extent may be -1) and, if given, dtype.")
      .def("slice", &Tensor::slice, py::arg("start"), py::arg("stop"),
           "Rows start … stop of the first axis, sharing memory.")
      .def("zero", &zero, "Overwrite with zeros, in stream order.")
      .def("__dlpack__",
           [](const Tensor& t, const py::object& stream, const py::kwargs&) { return to_dlpack(t, stream); },
           py::arg("stream") = py::none())
      .def("__dlpack_device__",
           [](const Tensor& t) { return py::make_tuple(ernie::kDLCuda, t.context().device()); })
      .def("__repr__", [](const Tensor& t) { return "Tensor(" + t.describe() + ")"; });
}

void bind_context(py::module_& module) {
  py::class_<Context, ContextPtr>(
      module, "Context",
      "One device, one stream, one memory pool. Use it from one thread at a time.")
      .def(py::init(&Context::create), py::arg("device") = 0,
           py::arg("library_folders") = std::vector<std::string>{})
      .def_property_readonly("device", &Context::device)
      .def_property_readonly("stream", [](const Context& c) { return reinterpret_cast<intptr_t>(c.stream()); },
                             "The cudaStream_t as an integer.")
      .def_property_readonly("name", &Context::name)
      .def_property_readonly("capability", [](const Context& c) {
        return py::make_tuple(c.capability() / 10, c.capability() % 10);
      })
      .def_property_readonly("sm_count", &Context::sm_count)
      .def_property_readonly("l2_bytes", &Context::l2_bytes)
      .def_property_readonly("is_capturing", &Context::is_capturing)
      .def_property("pdl", &Context::pdl, &Context::set_pdl,
                    "Whether kernels are chained by programmatic dependent launch.")
      .def("synchronize", &Context::synchronize, py::call_guard<py::gil_scoped_release>(),
           "Wait for everything queued.")
      .def("memory",
           [](const Context& c) {
             c.activate();
             size_t free_bytes = 0, total_bytes = 0;
             ERNIE_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
             return py::make_tuple(free_bytes, total_bytes);
           },
           "(free, total) bytes of the device; what the pool holds idle counts as taken.")
      .def("pool_bytes",
           [](Context& c) {
             return py::make_tuple(c.pool().reserved_bytes(), c.pool().used_bytes(), c.pool().peak_bytes());
           },
           "(reserved, used, most ever used) bytes of the eager pool.")
      .def("reset_peak", [](Context& c) { c.pool().reset_peak(); })
      .def("trim", [](Context& c) { return c.pool().trim(); },
           "Give idle memory back to the device; returns the bytes.")
      .def("empty", &Context::empty, py::arg("shape"), py::arg("dtype"))
      .def("zeros",
           [](Context& c, std::vector<int64_t> shape, DType dtype) {
             Tensor tensor = c.empty(std::move(shape), dtype);
             zero(tensor);
             return tensor;
           },
           py::arg("shape"), py::arg("dtype"))
      .def("upload", &upload, py::arg("array"), py::arg("dtype") = py::none(),
           "A tensor with the array's contents, through pinned memory, in stream order. For bf16, "
           "floats are rounded to nearest even and uint16 values are taken as bits.")
      .def("read_later", [](const ContextPtr&, const Tensor& t) { return std::make_unique<Readback>(t); },
           py::arg("tensor"), "Queue a copy to the host and return at once.")
      .def("host_array", &host_array, py::arg("shape"), py::arg("dtype"),
           "Zeroed memory of the host that kernels reach too: (tensor, array). The array has what a\n"
           "kernel wrote when an event recorded behind that kernel was reached.")
      .def("event", [](const ContextPtr& c, bool sleeps) { return std::make_unique<Event>(c, sleeps); },
           py::arg("sleeps") = false,
           "With sleeps=True `synchronize` leaves the core to others, and no time is kept.")
      .def("capture",
           [](const ContextPtr& c, const ernie::Graph* sharing) {
             return std::make_unique<ernie::Graph>(c, sharing);
           },
           py::arg("sharing") = py::none(),
           "with ctx.capture() as graph: … records; graph.launch() runs it. `sharing` names a graph "
           "whose idle memory this one may use as well: then read one's results before the other runs.");
}

void bind_lifecycle(py::module_& module) {
  py::class_<Readback>(module, "Readback", "A tensor's contents on their way to the host.")
      .def("ready", &Readback::is_ready)
      .def("numpy", &numpy_of, "Wait for the copy and return it; bf16 as float32.");
  py::class_<Event>(module, "Event", "A point in the stream, and when it was reached.")
      .def("record", &Event::record)
      .def("ready", &Event::is_ready)
      .def("synchronize", &Event::synchronize, py::call_guard<py::gil_scoped_release>())
      .def("elapsed_ms", &Event::elapsed_ms, py::arg("end"));
  py::class_<ernie::Graph>(module, "Graph", "Work recorded once, launched as a whole.")
      .def("__enter__", [](ernie::Graph& g) -> ernie::Graph& { g.begin(); return g; },
           py::return_value_policy::reference_internal)
      .def("__exit__",
           [](ernie::Graph& g, const py::object& type, const py::object&, const py::object&) {
             if (type.is_none()) {
               g.end();
             } else {
               g.discard();
             }
           })
      .def_property_readonly("pool_bytes", &ernie::Graph::pool_bytes)
      .def_property_readonly("num_nodes", &ernie::Graph::num_nodes)
      .def("launch", &ernie::Graph::launch);
}

}  // namespace

void bind_core(py::module_& module) {
  const auto error = py::register_exception<ernie::CudaError>(module, "CudaError", PyExc_RuntimeError);
  py::register_exception<ernie::OutOfMemoryError>(module, "OutOfMemoryError", error);
  py::enum_<DType>(module, "DType", "Element types of tensors.")
      .value("bf16", DType::kBF16)
      .value("f32", DType::kF32)
      .value("i32", DType::kI32)
      .value("i64", DType::kI64)
      .value("u8", DType::kU8)
      .value("i8", DType::kI8)
      .value("f16", DType::kF16)
      .value("bool", DType::kBool)
      .value("u16", DType::kU16)
      .export_values();
  bind_tensor(module);
  bind_lifecycle(module);
  bind_context(module);
  module.def("from_dlpack", &from_dlpack, py::arg("context"), py::arg("source"),
             "A tensor of any object with __dlpack__: shared on the same device, copied from the host.");
  module.def("dlpack_layout", &dlpack_layout, py::arg("source"),
             "(device type, dtype, shape, strides in elements) of what `source` exports.");
  module.def("device_count", [] {
    int count = 0;
    ERNIE_CUDA(cudaGetDeviceCount(&count));
    return count;
  });
  module.def("device_capability", [](int device) {
    int major = 0, minor = 0;
    ERNIE_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    ERNIE_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return py::make_tuple(major, minor);
  });
  module.def("device_shared_bytes", [](int device) {  // that a block can have
    int bytes = 0;
    ERNIE_CUDA(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes;
  });
}
