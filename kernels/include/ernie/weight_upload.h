// Matrices of a checkpoint's files → their place in a weight on the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ernie/context.h"
#include "ernie/tensor.h"

namespace ernie {

// Host rows travel through pinned buffers, which several threads fill while the one before is on
// its way; the device turns (transposes) and converts them. Host memory: kBuffers · buffer_bytes.
class WeightUploader {
 public:
  static constexpr int kBuffers = 3;

  WeightUploader(std::shared_ptr<Context> context, size_t buffer_bytes, int threads);
  ~WeightUploader();
  WeightUploader(const WeightUploader&) = delete;
  WeightUploader& operator=(const WeightUploader&) = delete;

  // target[offset + r · row_stride + c] = source[r, c], or source[c, r] when `transposed`, for the
  // [rows, columns] matrix `source` (bf16, f16 or f32; contiguous, on the host). The target is a
  // contiguous bf16 or f32 tensor. Returns when `source` is no longer needed. Throws
  // std::invalid_argument when a target lies outside.
  void place(const Tensor& target, int64_t offset, int64_t row_stride, const void* source,
             DType source_dtype, int64_t rows, int64_t columns, bool transposed);

 private:
  struct Buffer {
    void* host = nullptr;
    Tensor device;
    cudaEvent_t done = nullptr;
  };
  void copy_to_host_buffer(void* target, const char* source, size_t bytes) const;

  std::shared_ptr<Context> context_;
  size_t buffer_bytes_;
  int threads_;
  std::vector<Buffer> buffers_;
  size_t next_ = 0;
};

}  // namespace ernie
