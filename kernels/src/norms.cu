// RMSNorm, with and without the residual sum, and LayerNorm: one block a row, the row in registers.
#include "ernie/check.h"
#include "ernie/elementwise.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/reduce.cuh"
#include "ernie/vector.cuh"

namespace ernie {

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxHidden = 8 * kMaxThreads * 4;

// A vector is eight neighbours; thread i holds vectors i, i + threads, ….
int threads_for(int vectors) { return std::min(kMaxThreads, (vectors + 31) / 32 * 32); }

// The block's sum of `value`, the same in every thread; all threads take part.
__device__ float sum_over_block(float value, float* scratch) {
  value = warp_sum(value);
  const int warps = blockDim.x / 32;
  __syncthreads();  // an earlier sum may still be read
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  return warp_sum(lane < warps ? scratch[lane] : 0.f);
}

template <int kVectors, bool kResidual>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const bf16* x, const bf16* residual,
                    const bf16* __restrict__ weight, bf16* y, bf16* sum,
                    int vectors, float inverse_hidden, float eps) {
  __shared__ float scratch[32];
  pdl_trigger();
  uint4 w[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v < vectors) w[i] = load_16(weight + 8 * v);
  }
  pdl_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * vectors * 8;
  float values[kVectors][8];
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    unpack_8(load_16(x + row + 8 * v), values[i]);
    if (kResidual) {
      float other[8];
      unpack_8(load_16(residual + row + 8 * v), other);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[i][j] += other[j];
      const uint4 rounded = pack_8(values[i]);
      store_16(sum + row + 8 * v, rounded);
      unpack_8(rounded, values[i]);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) squares += values[i][j] * values[i][j];
  }
  const float scale = rsqrtf(sum_over_block(squares, scratch) * inverse_hidden + eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    float weights[8];
    unpack_8(w[i], weights);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[i][j] = round_to_bf16(values[i][j] * scale) * weights[j];
    store_16(y + row + 8 * v, pack_8(values[i]));
  }
}

template <int kVectors>
__global__ void __launch_bounds__(kMaxThreads)
    layer_norm_kernel(const bf16* x, const bf16* __restrict__ weight,
                      const bf16* __restrict__ bias, bf16* y, int vectors,
                      float inverse_hidden, float eps) {
  __shared__ float scratch[32];
  pdl_trigger();
  pdl_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * vectors * 8;
  float values[kVectors][8];
  float total = 0.f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    unpack_8(load_16(x + row + 8 * v), values[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) total += values[i][j];
  }
  const float mean = sum_over_block(total, scratch) * inverse_hidden;
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    if (static_cast<int>(threadIdx.x + i * blockDim.x) >= vectors) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[i][j] -= mean;
      squares += values[i][j] * values[i][j];
    }
  }
  const float scale = rsqrtf(sum_over_block(squares, scratch) * inverse_hidden + eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    float weights[8], biases[8];
    unpack_8(load_16(weight + 8 * v), weights);
    unpack_8(load_16(bias + 8 * v), biases);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[i][j] = values[i][j] * scale * weights[j] + biases[j];
    store_16(y + row + 8 * v, pack_8(values[i]));
  }
}

// [T, H] with H a multiple of 8 in reach of one block; returns the vectors of a row.
int check_rows(const Tensor& x, const char* name) {
  expect(x, name, DType::kBF16, {-1, -1});
  const int64_t hidden = x.size(1);
  if (hidden == 0 || hidden % 8 != 0 || hidden > kMaxHidden) {
    fail(std::string(name) + ": rows of " + std::to_string(hidden) +
         " values; expected a multiple of 8 up to " + std::to_string(kMaxHidden));
  }
  return static_cast<int>(hidden / 8);
}

template <bool kResidual>
void launch_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                     const Tensor& y, const Tensor& sum, int vectors, float eps) {
  const auto kernel = vectors <= kMaxThreads ? rms_norm_kernel<1, kResidual>
                                             : rms_norm_kernel<4, kResidual>;
  launch(x.context(), kernel, dim3(static_cast<unsigned>(x.size(0))), dim3(threads_for(vectors)), 0,
         x.ptr<bf16>(), kResidual ? residual.ptr<bf16>() : nullptr, weight.ptr<bf16>(),
         y.ptr<bf16>(), kResidual ? sum.ptr<bf16>() : nullptr, vectors,
         1.f / (8.f * static_cast<float>(vectors)), eps);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps) {
  return add_rms_norm(x, Tensor(), weight, eps).first;
}

std::pair<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual,
                                       const Tensor& weight, float eps) {
  const int vectors = check_rows(x, "x");
  expect(weight, "weight", DType::kBF16, {x.size(1)}, x);
  Tensor y = x.context().empty(x.shape(), DType::kBF16);
  if (!residual.defined()) {
    launch_rms_norm<false>(x, residual, weight, y, y, vectors, eps);
    return {y, x};
  }
  expect(residual, "residual", DType::kBF16, {x.size(0), x.size(1)}, x);
  Tensor sum = x.context().empty(x.shape(), DType::kBF16);
  launch_rms_norm<true>(x, residual, weight, y, sum, vectors, eps);
  return {y, sum};
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
  const int vectors = check_rows(x, "x");
  expect(weight, "weight", DType::kBF16, {x.size(1)}, x);
  expect(bias, "bias", DType::kBF16, {x.size(1)}, x);
  Tensor y = x.context().empty(x.shape(), DType::kBF16);
  const auto kernel = vectors <= kMaxThreads ? layer_norm_kernel<1> : layer_norm_kernel<4>;
  launch(x.context(), kernel, dim3(static_cast<unsigned>(x.size(0))), dim3(threads_for(vectors)), 0,
         x.ptr<bf16>(), weight.ptr<bf16>(), bias.ptr<bf16>(), y.ptr<bf16>(), vectors,
         1.f / (8.f * static_cast<float>(vectors)), eps);
  return y;
}

}  // namespace ernie
