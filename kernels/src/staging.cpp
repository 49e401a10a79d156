#include "ernie/staging.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "ernie/check.h"
#include "ernie/storage.h"

namespace ernie {

namespace {

constexpr size_t kParallelCopy = size_t{4} << 20;  // below, one thread copies as fast
constexpr unsigned kCopyThreads = 4;               // reaches PCIe's rate out of the page cache

void copy_on_threads(char* target, const char* source, size_t bytes) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const unsigned count = bytes < kParallelCopy ? 1 : std::min(kCopyThreads, cores);
  const size_t share = (bytes + count * 4096 - 1) / (count * 4096) * 4096;
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < count; ++i) {
    const size_t begin = std::min(bytes, i * share);
    const size_t end = std::min(bytes, begin + share);
    helpers.emplace_back([=] { std::memcpy(target + begin, source + begin, end - begin); });
  }
  std::memcpy(target, source, std::min(bytes, share));
  for (std::thread& helper : helpers) helper.join();
}

void refuse_while_capturing(const Context& context, const char* what) {
  if (context.is_capturing()) {
    fail(std::string(what) + ": not possible while a graph is captured; do it before or after");
  }
}

}  // namespace

StagingRing::~StagingRing() {
  for (const InFlight& piece : in_flight_) cudaEventDestroy(piece.done);
  for (const cudaEvent_t event : idle_events_) cudaEventDestroy(event);
  if (ring_ != nullptr) cudaFreeHost(ring_);
}

void StagingRing::retire_oldest() {
  const InFlight oldest = in_flight_.front();
  ERNIE_CUDA(cudaEventSynchronize(oldest.done));
  in_flight_.pop_front();
  idle_events_.push_back(oldest.done);
}

// Pieces lie in the ring in the order they were made, so the oldest is always the next in the way.
char* StagingRing::reserve(size_t bytes) {
  if (ring_ == nullptr) ERNIE_CUDA(cudaHostAlloc(&ring_, kBytes, cudaHostAllocDefault));
  while (!in_flight_.empty() && cudaEventQuery(in_flight_.front().done) == cudaSuccess) {
    retire_oldest();
  }
  cudaGetLastError();  // "not ready" is no error
  if (next_ + bytes > kBytes) {
    // What lies between here and the end is skipped, and must be free before it is passed.
    while (!in_flight_.empty() && in_flight_.front().begin >= next_) retire_oldest();
    next_ = 0;
  }
  while (!in_flight_.empty() && in_flight_.front().begin >= next_ &&
         in_flight_.front().begin < next_ + bytes) {
    retire_oldest();
  }
  return ring_ + next_;
}

void StagingRing::upload(void* device, size_t bytes, size_t piece_multiple,
                         const std::function<void(void*, size_t, size_t)>& fill) {
  refuse_while_capturing(context_, "upload");
  context_.activate();
  const size_t largest = kPiece / piece_multiple * piece_multiple;
  for (size_t offset = 0; offset < bytes;) {
    const size_t count = std::min(largest, bytes - offset);
    const size_t room = (count + 255) / 256 * 256;
    char* target = reserve(room);
    fill(target, offset, count);
    ERNIE_CUDA(cudaMemcpyAsync(static_cast<char*>(device) + offset, target, count,
                               cudaMemcpyDefault, context_.stream()));
    cudaEvent_t done;
    if (idle_events_.empty()) {
      ERNIE_CUDA(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    } else {
      done = idle_events_.back();
      idle_events_.pop_back();
    }
    in_flight_.push_back({next_, next_ + room, done});
    ERNIE_CUDA(cudaEventRecord(done, context_.stream()));
    next_ += room;
    offset += count;
  }
}

void StagingRing::upload(void* device, const void* host, size_t bytes) {
  const char* source = static_cast<const char*>(host);
  upload(device, bytes, 1, [source](void* target, size_t offset, size_t count) {
    copy_on_threads(static_cast<char*>(target), source + offset, count);
  });
}

Tensor host_tensor(const std::shared_ptr<Context>& context, std::vector<int64_t> shape,
                   DType dtype) {
  refuse_while_capturing(*context, "host_array");
  context->activate();
  size_t bytes = size_of(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0) fail("host_array: extent " + std::to_string(extent) + " is negative");
    bytes *= static_cast<size_t>(extent);
  }
  void* host = nullptr;
  ERNIE_CUDA(cudaHostAlloc(&host, std::max(bytes, size_t{1}), cudaHostAllocMapped));
  auto storage = std::make_shared<Storage>(context, host, [host] { cudaFreeHost(host); });
  void* address = nullptr;
  ERNIE_CUDA(cudaHostGetDevicePointer(&address, host, 0));
  if (address != host) fail("host_array: the device has another address for the host's memory");
  std::memset(host, 0, bytes);
  return Tensor(std::move(storage), dtype, std::move(shape));
}

Readback::Readback(const Tensor& tensor)
    : context_(tensor.defined() ? tensor.storage()->context() : nullptr),
      dtype_(tensor.dtype()),
      shape_(tensor.shape()) {
  if (!context_) fail("read_later: no tensor");
  refuse_while_capturing(*context_, "read_later");
  if (!tensor.is_contiguous()) fail("read_later: the tensor must be contiguous");
  context_->activate();
  numel_ = static_cast<size_t>(tensor.numel());
  bytes_ = tensor.nbytes();
  ReadbackBuffers& buffers = context_->attachment<ReadbackBuffers>();
  host_ = buffers.take(bytes_);
  done_ = buffers.take_event();
  if (bytes_ > 0) {
    ERNIE_CUDA(cudaMemcpyAsync(host_, tensor.data(), bytes_, cudaMemcpyDefault,
                               context_->stream()));
  }
  ERNIE_CUDA(cudaEventRecord(done_, context_->stream()));
}

Readback::~Readback() {
  if (done_ == nullptr) return;
  cudaEventSynchronize(done_);  // the copy must not land in a buffer that has a new owner
  ReadbackBuffers& buffers = context_->attachment<ReadbackBuffers>();
  buffers.give_back(host_, bytes_);
  buffers.give_back(done_);
}

bool Readback::is_ready() const {
  const cudaError_t code = cudaEventQuery(done_);
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  if (code != cudaSuccess) throw_cuda_error(code, "cudaEventQuery");
  return true;
}

void Readback::wait() const { ERNIE_CUDA(cudaEventSynchronize(done_)); }

ReadbackBuffers::~ReadbackBuffers() {
  for (const auto& [bytes, buffers] : idle_) {
    for (void* buffer : buffers) cudaFreeHost(buffer);
  }
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
}

size_t ReadbackBuffers::size_class(size_t bytes) {
  size_t size = 4096;
  while (size < bytes) size *= 2;
  return size;
}

void* ReadbackBuffers::take(size_t bytes) {
  std::vector<void*>& idle = idle_[size_class(bytes)];
  if (!idle.empty()) {
    void* buffer = idle.back();
    idle.pop_back();
    return buffer;
  }
  void* buffer = nullptr;
  ERNIE_CUDA(cudaHostAlloc(&buffer, size_class(bytes), cudaHostAllocDefault));
  return buffer;
}

void ReadbackBuffers::give_back(void* buffer, size_t bytes) {
  idle_[size_class(bytes)].push_back(buffer);
}

cudaEvent_t ReadbackBuffers::take_event() {
  cudaEvent_t event;
  if (events_.empty()) {
    // A waiting thread sleeps: it must not take a core from the schedulers.
    ERNIE_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
  } else {
    event = events_.back();
    events_.pop_back();
  }
  return event;
}

}  // namespace ernie
