#include "dlpack.h"

#include <numeric>

#include "ernie/dlpack.h"
#include "ernie/staging.h"
#include "ernie/storage.h"

namespace {

using ernie::DLDataType;
using ernie::DLManagedTensor;
using ernie::DType;
using ernie::Tensor;

constexpr const char* kFresh = "dltensor";
constexpr const char* kUsed = "used_dltensor";

DLDataType to_dl(DType dtype) {
  const uint8_t bits = static_cast<uint8_t>(8 * ernie::size_of(dtype));
  switch (dtype) {
    case DType::kBF16:
      return {ernie::kDLBfloat, bits, 1};
    case DType::kF32:
    case DType::kF16:
      return {ernie::kDLFloat, bits, 1};
    case DType::kI32:
    case DType::kI64:
    case DType::kI8:
      return {ernie::kDLInt, bits, 1};
    case DType::kU8:
    case DType::kU16:
      return {ernie::kDLUInt, bits, 1};
    case DType::kBool:
      return {ernie::kDLBool, bits, 1};
  }
  ernie::fail("unknown dtype");
}

DType from_dl(DLDataType type) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16, DType::kI32, DType::kI64,
                            DType::kI8, DType::kU8, DType::kU16, DType::kBool}) {
    const DLDataType known = to_dl(dtype);
    if (type.lanes == 1 && known.code == type.code && known.bits == type.bits) return dtype;
  }
  ernie::fail("from_dlpack: dtype (code " + std::to_string(type.code) + ", " +
              std::to_string(type.bits) + " bits, " + std::to_string(type.lanes) +
              " lanes) is not supported");
}

// Owns the exported view until the consumer's deleter runs.
struct Export {
  Tensor tensor;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  DLManagedTensor managed;
};

cudaStream_t consumer_stream(const py::object& stream) {
  if (stream.is_none()) return cudaStreamLegacy;
  const auto value = stream.cast<intptr_t>();
  if (value == 1) return cudaStreamLegacy;
  if (value == 2) return cudaStreamPerThread;
  return reinterpret_cast<cudaStream_t>(value);
}

// Work queued on `later` from now on runs after what is queued on `earlier`.
void order(cudaStream_t earlier, cudaStream_t later) {
  cudaEvent_t event;
  ERNIE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  cudaError_t code = cudaEventRecord(event, earlier);
  if (code == cudaSuccess) code = cudaStreamWaitEvent(later, event, 0);
  cudaEventDestroy(event);
  if (code != cudaSuccess) ernie::throw_cuda_error(code, "cudaStreamWaitEvent");
}

// The consumer is done with the memory on its side; what it queued on the default stream must run
// before our stream gets the memory back.
void delete_export(DLManagedTensor* managed) {
  Export* held = static_cast<Export*>(managed->manager_ctx);
  const ernie::Context& context = held->tensor.context();
  cudaEvent_t event;
  if (!context.is_capturing() && cudaSetDevice(context.device()) == cudaSuccess &&
      cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess) {
    cudaEventRecord(event, cudaStreamLegacy);
    cudaStreamWaitEvent(context.stream(), event, 0);
    cudaEventDestroy(event);
  }
  delete held;
}

void delete_unused_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kFresh)) return;
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kFresh));
  if (managed->deleter != nullptr) managed->deleter(managed);
}

DLManagedTensor* managed_of(const py::object& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), kFresh)) {
    ernie::fail("from_dlpack: the object's __dlpack__ gave no unused 'dltensor' capsule");
  }
  return static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kFresh));
}

std::vector<int64_t> strides_of(const ernie::DLTensor& tensor) {
  if (tensor.strides != nullptr) return {tensor.strides, tensor.strides + tensor.ndim};
  std::vector<int64_t> strides(tensor.ndim);
  int64_t stride = 1;
  for (int i = tensor.ndim; i-- > 0;) {
    strides[i] = stride;
    stride *= tensor.shape[i];
  }
  return strides;
}

int32_t device_type_of(const py::object& source) {
  if (!py::hasattr(source, "__dlpack__") || !py::hasattr(source, "__dlpack_device__")) {
    ernie::fail("from_dlpack: " + py::str(py::type::of(source)).cast<std::string>() +
                " has no __dlpack__");
  }
  return source.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int32_t>();
}

Tensor share(const std::shared_ptr<ernie::Context>& context, const py::object& source) {
  const py::object capsule =
      source.attr("__dlpack__")(py::arg("stream") = reinterpret_cast<intptr_t>(context->stream()));
  DLManagedTensor* managed = managed_of(capsule);
  const ernie::DLTensor& given = managed->dl_tensor;
  if (given.device.device_id != context->device()) {
    ernie::fail("from_dlpack: the tensor is on device " + std::to_string(given.device.device_id) +
                ", the context on device " + std::to_string(context->device()));
  }
  const DType dtype = from_dl(given.dtype);
  std::vector<int64_t> shape(given.shape, given.shape + given.ndim);
  std::vector<int64_t> strides = strides_of(given);
  char* data = static_cast<char*>(given.data) + given.byte_offset;
  auto storage = std::make_shared<ernie::Storage>(context, data, [managed] {
    if (managed->deleter != nullptr) managed->deleter(managed);
  });
  PyCapsule_SetName(capsule.ptr(), kUsed);
  return Tensor(std::move(storage), dtype, std::move(shape), std::move(strides), 0);
}

Tensor copy(const std::shared_ptr<ernie::Context>& context, const py::object& source) {
  const py::object capsule = source.attr("__dlpack__")();
  const ernie::DLTensor& given = managed_of(capsule)->dl_tensor;
  std::vector<int64_t> shape(given.shape, given.shape + given.ndim);
  Tensor dense(nullptr, from_dl(given.dtype), shape);
  if (dense.numel() > 1 && strides_of(given) != dense.strides()) {
    ernie::fail("from_dlpack: a tensor on the host must be contiguous");
  }
  Tensor tensor = context->empty(std::move(shape), dense.dtype());
  context->staging().upload(tensor.data(), static_cast<char*>(given.data) + given.byte_offset,
                            tensor.nbytes());
  return tensor;
}

}  // namespace

py::capsule to_dlpack(const Tensor& tensor, const py::object& stream) {
  ernie::Context& context = tensor.context();
  if (context.is_capturing()) ernie::fail("__dlpack__: not possible while a graph is captured");
  context.activate();
  const bool synchronise = stream.is_none() || stream.cast<intptr_t>() != -1;
  if (synchronise && consumer_stream(stream) != context.stream()) {
    order(context.stream(), consumer_stream(stream));
  }
  auto held = std::make_unique<Export>(Export{tensor, tensor.shape(), tensor.strides(), {}});
  held->managed.dl_tensor = {tensor.data(),
                             {ernie::kDLCuda, context.device()},
                             tensor.dim(),
                             to_dl(tensor.dtype()),
                             held->shape.data(),
                             held->strides.data(),
                             0};
  held->managed.manager_ctx = held.get();
  held->managed.deleter = delete_export;
  py::capsule capsule(&held->managed, kFresh, delete_unused_capsule);
  held.release();
  return capsule;
}

Tensor from_dlpack(const std::shared_ptr<ernie::Context>& context, const py::object& source) {
  const int32_t type = device_type_of(source);
  if (type == ernie::kDLCuda) return share(context, source);
  if (type == ernie::kDLCpu || type == ernie::kDLCudaHost) return copy(context, source);
  ernie::fail("from_dlpack: device type " + std::to_string(type) + " is neither CUDA nor the host");
}

py::tuple dlpack_layout(const py::object& source) {
  const int32_t type = device_type_of(source);
  const py::object capsule = source.attr("__dlpack__")();
  const ernie::DLTensor& given = managed_of(capsule)->dl_tensor;
  const std::vector<int64_t> shape(given.shape, given.shape + given.ndim);
  return py::make_tuple(type, from_dl(given.dtype), shape, strides_of(given));
}
