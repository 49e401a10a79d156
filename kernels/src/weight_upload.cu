#include "ernie/weight_upload.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"

namespace ernie {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class Target>
__device__ __forceinline__ Target from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float(float value) {
  return __float2bfloat16_rn(value);
}

// A block moves tiles of 32 × 32 through shared memory, so that both sides are read and written
// along their rows.
template <class Source, class Target>
__global__ void place_kernel(Target* target, int64_t row_stride, const Source* source, int64_t rows,
                             int64_t columns, bool transposed) {
  pdl_trigger();
  pdl_wait();
  __shared__ float tile[kTile][kTile + 1];
  const int64_t tiles_across = (columns + kTile - 1) / kTile;
  const int64_t num_tiles = tiles_across * ((rows + kTile - 1) / kTile);
  for (int64_t index = blockIdx.x; index < num_tiles; index += gridDim.x) {
    const int64_t row0 = index / tiles_across * kTile, column0 = index % tiles_across * kTile;
    for (int step = 0; step < kTile; step += kTileRows) {
      const int64_t row = row0 + threadIdx.y + step, column = column0 + threadIdx.x;
      if (row < rows && column < columns)
        tile[threadIdx.y + step][threadIdx.x] = to_float(source[row * columns + column]);
    }
    __syncthreads();
    for (int step = 0; step < kTile; step += kTileRows) {
      const int line = threadIdx.y + step;
      if (transposed) {
        const int64_t row = row0 + threadIdx.x, column = column0 + line;
        if (row < rows && column < columns)
          target[column * row_stride + row] = from_float<Target>(tile[threadIdx.x][line]);
      } else {
        const int64_t row = row0 + line, column = column0 + threadIdx.x;
        if (row < rows && column < columns)
          target[row * row_stride + column] = from_float<Target>(tile[line][threadIdx.x]);
      }
    }
    __syncthreads();
  }
}

template <class Source, class Target>
void launch_place(Context& context, Target* target, int64_t row_stride, const void* source,
                  int64_t rows, int64_t columns, bool transposed) {
  const int64_t tiles = ((rows + kTile - 1) / kTile) * ((columns + kTile - 1) / kTile);
  const int64_t grid = std::min<int64_t>(tiles, 16 * context.sm_count());
  launch(context, place_kernel<Source, Target>, dim3(static_cast<unsigned>(grid)),
         dim3(kTile, kTileRows), 0, target, row_stride, static_cast<const Source*>(source), rows,
         columns, transposed);
}

template <class Target>
void launch_place(Context& context, DType source_dtype, Target* target, int64_t row_stride,
                  const void* source, int64_t rows, int64_t columns, bool transposed) {
  switch (source_dtype) {
    case DType::kBF16:
      return launch_place<__nv_bfloat16>(context, target, row_stride, source, rows, columns,
                                         transposed);
    case DType::kF16:
      return launch_place<__half>(context, target, row_stride, source, rows, columns, transposed);
    case DType::kF32:
      return launch_place<float>(context, target, row_stride, source, rows, columns, transposed);
    default:
      fail(std::string("source is ") + name_of(source_dtype) + "; expected bf16, f16 or f32");
  }
}

}  // namespace

WeightUploader::WeightUploader(std::shared_ptr<Context> context, size_t buffer_bytes, int threads)
    : context_(std::move(context)), buffer_bytes_(buffer_bytes), threads_(threads) {
  if (buffer_bytes < 4096 || threads < 1)
    fail("buffer_bytes is " + std::to_string(buffer_bytes) + " and threads " +
         std::to_string(threads) + "; expected at least 4096 and 1");
  buffers_.resize(kBuffers);
  for (Buffer& buffer : buffers_) {
    ERNIE_CUDA(cudaMallocHost(&buffer.host, buffer_bytes));
    buffer.device = context_->empty({static_cast<int64_t>(buffer_bytes)}, DType::kU8);
    ERNIE_CUDA(cudaEventCreateWithFlags(&buffer.done, cudaEventDisableTiming));
  }
}

WeightUploader::~WeightUploader() {
  // A buffer must not be freed under a copy that still runs; errors were reported by `place`.
  cudaStreamSynchronize(context_->stream());
  for (Buffer& buffer : buffers_) {
    if (buffer.done != nullptr) cudaEventDestroy(buffer.done);
    if (buffer.host != nullptr) cudaFreeHost(buffer.host);
  }
}

void WeightUploader::copy_to_host_buffer(void* target, const char* source, size_t bytes) const {
  const size_t share = (bytes / threads_ + 4095) / 4096 * 4096;
  std::vector<std::thread> copiers;
  size_t begin = 0;
  for (; bytes - begin > share && share > 0; begin += share)
    copiers.emplace_back([=] { std::memcpy(static_cast<char*>(target) + begin, source + begin, share); });
  std::memcpy(static_cast<char*>(target) + begin, source + begin, bytes - begin);
  for (std::thread& copier : copiers) copier.join();
}

void WeightUploader::place(const Tensor& target, int64_t offset, int64_t row_stride,
                           const void* source, DType source_dtype, int64_t rows, int64_t columns,
                           bool transposed) {
  if (rows == 0 || columns == 0) return;
  const int64_t lines = transposed ? columns : rows, width = transposed ? rows : columns;
  const int64_t end = offset + (lines - 1) * row_stride + width;
  if (offset < 0 || row_stride < width || end > target.numel() || !target.is_contiguous())
    fail("a matrix of [" + std::to_string(lines) + ", " + std::to_string(width) + "] at " +
         std::to_string(offset) + " with rows " + std::to_string(row_stride) +
         " apart does not fit target " + target.describe());
  const size_t row_bytes = static_cast<size_t>(columns) * size_of(source_dtype);
  if (row_bytes > buffer_bytes_)
    fail("a row of " + std::to_string(row_bytes) + " bytes does not fit a buffer of " +
         std::to_string(buffer_bytes_));
  const int64_t rows_at_once = static_cast<int64_t>(buffer_bytes_ / row_bytes);
  for (int64_t row = 0; row < rows; row += rows_at_once) {
    const int64_t count = std::min(rows_at_once, rows - row);
    Buffer& buffer = buffers_[next_++ % buffers_.size()];
    ERNIE_CUDA(cudaEventSynchronize(buffer.done));
    const size_t bytes = static_cast<size_t>(count) * row_bytes;
    copy_to_host_buffer(buffer.host, static_cast<const char*>(source) + row * row_bytes, bytes);
    ERNIE_CUDA(cudaMemcpyAsync(buffer.device.data(), buffer.host, bytes, cudaMemcpyHostToDevice,
                               context_->stream()));
    const int64_t place = offset + (transposed ? row : row * row_stride);
    if (target.dtype() == DType::kBF16)
      launch_place(*context_, source_dtype, target.ptr<__nv_bfloat16>() + place, row_stride,
                   buffer.device.data(), count, columns, transposed);
    else if (target.dtype() == DType::kF32)
      launch_place(*context_, source_dtype, target.ptr<float>() + place, row_stride,
                   buffer.device.data(), count, columns, transposed);
    else
      fail("target is " + target.describe() + "; expected bf16 or f32");
    ERNIE_CUDA(cudaEventRecord(buffer.done, context_->stream()));
  }
}

}  // namespace ernie
