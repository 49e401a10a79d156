// One device, one stream, one memory pool. There is no other state in the process.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "ernie/tensor.h"

namespace ernie {

class Pool;
class StagingRing;

// Not thread-safe: one thread at a time may use a context and its tensors (Python's GIL sees to it).
class Context : public std::enable_shared_from_this<Context> {
 public:
  // Throws CudaError without a driver or device, std::invalid_argument for a bad ordinal.
  // `library_folders` are searched for optional libraries (cuBLASLt) after the system's own places.
  static std::shared_ptr<Context> create(int device, std::vector<std::string> library_folders = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Makes the device current in the calling thread; whatever takes memory does it.
  void activate() const;
  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  int sm_count() const { return sm_count_; }
  int capability() const { return capability_; }               // 90 for sm_90
  size_t max_shared_bytes() const { return max_shared_bytes_; }  // per block, opt-in
  size_t l2_bytes() const { return l2_bytes_; }
  const std::string& name() const { return name_; }
  const std::vector<std::string>& library_folders() const { return library_folders_; }

  // Kernels are chained by programmatic dependent launch (default: on for sm_90).
  bool pdl() const { return pdl_; }
  // Only Hopper runs code compiled for it; others get that of sm_80, which knows no dependency wait.
  void set_pdl(bool on) { pdl_ = on && capability_ / 10 == 9; }

  // Uninitialised, contiguous, aligned to 512 bytes. Stream-ordered: memory that its last owner
  // gave up may be handed out at once, because only later work of this stream will touch it.
  Tensor empty(std::vector<int64_t> shape, DType dtype);

  // Scratch of at least `bytes`, valid until the next call that asks for it. Zeroed when first
  // made; whoever keeps semaphores in it leaves them zero.
  void* workspace(size_t bytes);

  void synchronize();

  Pool& pool() { return *pool_; }
  // Replaces the pool that `empty` draws from; used while a graph is captured.
  std::shared_ptr<Pool> exchange_pool(std::shared_ptr<Pool> pool);
  StagingRing& staging() { return *staging_; }
  bool is_capturing() const { return is_capturing_; }
  void set_capturing(bool on) { is_capturing_ = on; }

  // Raises the kernel's dynamic shared memory limit when `bytes` needs it; remembered per kernel.
  void allow_shared_bytes(const void* kernel, size_t bytes);

  // The context's one object of type T, made by T(Context&) when first asked for: library handles,
  // caches. Destroyed with the context.
  template <class T>
  T& attachment() {
    std::shared_ptr<void>& slot = attachments_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

 private:
  Context(int device, std::vector<std::string> library_folders);

  int device_;
  cudaStream_t stream_ = nullptr;
  int sm_count_ = 0;
  int capability_ = 0;
  size_t max_shared_bytes_ = 0;
  size_t l2_bytes_ = 0;
  std::string name_;
  bool pdl_ = false;
  bool is_capturing_ = false;
  std::vector<std::string> library_folders_;
  std::shared_ptr<Pool> pool_;
  std::unique_ptr<StagingRing> staging_;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  std::vector<void*> retired_workspaces_;  // captured graphs may still use them
  std::unordered_map<const void*, size_t> shared_limits_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> attachments_;
};

}  // namespace ernie
