// Pinned host memory: a ring for uploads, buffers that read-backs arrive in, and memory that kernels
// reach themselves.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "ernie/context.h"
#include "ernie/tensor.h"

namespace ernie {

// Uploads copy into the ring and return; the device fetches from there in stream order.
class StagingRing {
 public:
  static constexpr size_t kBytes = size_t{64} << 20;
  static constexpr size_t kPiece = size_t{16} << 20;  // one piece fills while others are on their way

  explicit StagingRing(Context& context) : context_(context) {}
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // Fills `bytes` bytes at `device` from what `fill(target, offset, count)` writes, piece by piece.
  // `piece_multiple` divides every offset. Fails while a graph is captured.
  void upload(void* device, size_t bytes, size_t piece_multiple,
              const std::function<void(void*, size_t, size_t)>& fill);
  // The same from plain host memory; large copies use several threads.
  void upload(void* device, const void* host, size_t bytes);

 private:
  struct InFlight {
    size_t begin, end;
    cudaEvent_t done;
  };

  char* reserve(size_t bytes);  // waits for the oldest uploads as far as needed
  void retire_oldest();

  Context& context_;
  char* ring_ = nullptr;
  size_t next_ = 0;
  std::deque<InFlight> in_flight_;
  std::vector<cudaEvent_t> idle_events_;
};

// Zeroed memory of the host that kernels may use like the device's, at the price of the bus between:
// what they wrote is there when an event behind them was reached. Throws OutOfMemoryError.
Tensor host_tensor(const std::shared_ptr<Context>& context, std::vector<int64_t> shape,
                   DType dtype);

// A copy of a tensor's contents on its way to the host.
class Readback {
 public:
  explicit Readback(const Tensor& tensor);  // queues the copy; fails while a graph is captured
  ~Readback();
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;

  bool is_ready() const;
  void wait() const;  // blocks this thread until the copy has arrived
  const void* data() const { return host_; }
  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  size_t numel() const { return numel_; }

 private:
  std::shared_ptr<Context> context_;
  DType dtype_;
  std::vector<int64_t> shape_;
  size_t numel_;
  size_t bytes_;
  void* host_ = nullptr;
  cudaEvent_t done_ = nullptr;
};

// Pinned buffers and events of finished read-backs, kept for the next ones; a context attachment.
class ReadbackBuffers {
 public:
  explicit ReadbackBuffers(Context&) {}
  ~ReadbackBuffers();
  void* take(size_t bytes);
  void give_back(void* buffer, size_t bytes);
  cudaEvent_t take_event();
  void give_back(cudaEvent_t event) { events_.push_back(event); }

 private:
  static size_t size_class(size_t bytes);
  std::map<size_t, std::vector<void*>> idle_;
  std::vector<cudaEvent_t> events_;
};

}  // namespace ernie
