#include "ernie/context.h"

#include <algorithm>
#include <cctype>

#include "ernie/check.h"
#include "ernie/pool.h"
#include "ernie/staging.h"
#include "ernie/storage.h"

namespace ernie {

namespace {

constexpr size_t kFirstWorkspace = size_t{32} << 20;  // cuBLASLt's advice for Hopper

}  // namespace

void throw_cuda_error(cudaError_t code, const char* call) {
  cudaGetLastError();  // an error that is not sticky must not be found again by the next call
  std::string name(call);
  name = name.substr(0, name.find('('));
  const std::string text = name + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")";
  if (code == cudaErrorMemoryAllocation) throw OutOfMemoryError(text);
  throw CudaError(text);
}

std::shared_ptr<Context> Context::create(int device, std::vector<std::string> library_folders) {
  int count = 0;
  ERNIE_CUDA(cudaGetDeviceCount(&count));
  if (device < 0 || device >= count) {
    fail("device: " + std::to_string(device) + " is not one of the " + std::to_string(count) +
         " CUDA devices");
  }
  return std::shared_ptr<Context>(new Context(device, std::move(library_folders)));
}

Context::Context(int device, std::vector<std::string> library_folders)
    : device_(device), library_folders_(std::move(library_folders)) {
  ERNIE_CUDA(cudaSetDevice(device));
  cudaDeviceProp properties;
  ERNIE_CUDA(cudaGetDeviceProperties(&properties, device));
  name_ = properties.name;
  sm_count_ = properties.multiProcessorCount;
  capability_ = properties.major * 10 + properties.minor;
  max_shared_bytes_ = properties.sharedMemPerBlockOptin;
  l2_bytes_ = static_cast<size_t>(properties.l2CacheSize);
  set_pdl(true);
  ERNIE_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  pool_ = std::make_shared<Pool>(device, Pool::Segments::kMayBeFreed);
  staging_ = std::make_unique<StagingRing>(*this);
}

Context::~Context() {
  // Failures here mean that the driver is shutting down.
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  attachments_.clear();
  staging_.reset();
  for (void* old : retired_workspaces_) cudaFree(old);
  if (workspace_ != nullptr) cudaFree(workspace_);
  cudaStreamDestroy(stream_);
}

void Context::activate() const { ERNIE_CUDA(cudaSetDevice(device_)); }

Tensor Context::empty(std::vector<int64_t> shape, DType dtype) {
  size_t bytes = size_of(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0) fail("empty: a shape has the negative extent " + std::to_string(extent));
    if (extent > 0 && bytes > SIZE_MAX / 4 / static_cast<size_t>(extent)) {
      fail("empty: the shape overflows");
    }
    bytes *= static_cast<size_t>(extent);
  }
  activate();
  Pool::Block* block = pool_->allocate(bytes);
  std::shared_ptr<Storage> storage;
  try {
    storage = std::make_shared<Storage>(shared_from_this(), pool_, block);
  } catch (...) {
    pool_->release(block);
    throw;
  }
  return Tensor(std::move(storage), dtype, std::move(shape));
}

void* Context::workspace(size_t bytes) {
  if (bytes <= workspace_bytes_) return workspace_;
  activate();
  const size_t size = std::max({bytes, kFirstWorkspace, 2 * workspace_bytes_});
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  ERNIE_CUDA(cudaThreadExchangeStreamCaptureMode(&mode));
  void* made = nullptr;
  cudaError_t code = cudaMalloc(&made, size);
  if (code == cudaErrorMemoryAllocation && pool_->trim() > 0) {
    cudaGetLastError();
    code = cudaMalloc(&made, size);
  }
  // Not on the context's stream, which may be capturing: the zeros must be there now.
  cudaStream_t side = nullptr;
  if (code == cudaSuccess) code = cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
  if (code == cudaSuccess) code = cudaMemsetAsync(made, 0, size, side);
  if (code == cudaSuccess) code = cudaStreamSynchronize(side);
  if (side != nullptr) cudaStreamDestroy(side);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (code != cudaSuccess) throw_cuda_error(code, "workspace");
  if (workspace_ != nullptr) retired_workspaces_.push_back(workspace_);
  workspace_ = made;
  workspace_bytes_ = size;
  return workspace_;
}

void Context::synchronize() {
  activate();
  ERNIE_CUDA(cudaStreamSynchronize(stream_));
}

std::shared_ptr<Pool> Context::exchange_pool(std::shared_ptr<Pool> pool) {
  std::swap(pool_, pool);
  return pool;
}

void Context::allow_shared_bytes(const void* kernel, size_t bytes) {
  // 48 KB are allowed to a kernel that does not ask, and its static memory counts among them.
  constexpr size_t kAlwaysAllowed = 16 << 10;
  const auto [entry, is_new] = shared_limits_.try_emplace(kernel, kAlwaysAllowed);
  // One division of the L1 for all kernels: a multiprocessor must be empty to change it, and the
  // kernels of a chain should overlap.
  if (is_new) {
    ERNIE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared));
  }
  size_t& limit = entry->second;
  if (bytes <= limit) return;
  if (bytes > max_shared_bytes_) {
    fail("a kernel asks for " + std::to_string(bytes) + " bytes of shared memory, " + name_ +
         " has " + std::to_string(max_shared_bytes_));
  }
  ERNIE_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)));
  limit = bytes;
}

}  // namespace ernie
