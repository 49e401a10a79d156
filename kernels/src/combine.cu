#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/moe_small.h"
#include "ernie/pdl.cuh"
#include "ernie/reduce.cuh"
#include "ernie/vector.cuh"

namespace ernie {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kMaxVectors = 4;  // of eight columns, for each thread
constexpr int kMaxColumns = kMaxThreads * kMaxVectors * 8;

constexpr int kRound = 8;       // slots whose rows are asked for before any is added
constexpr int kWarps = kMaxThreads / 32;

// One block for each token; each thread keeps its columns in registers from the sum to the norm.
// Rows of one vector to a thread leave room for several blocks on a multiprocessor. With one token a
// block's latency is all there is: nothing is added before everything is asked for.
template <bool kNorm, int kVectors>
__global__ void __launch_bounds__(kMaxThreads, kVectors == 1 ? 2 : 1)
    combine(const bf16* y, const float* weights, const bf16* residual, const bf16* norm_w,
            float eps, int slots, int columns, float inverse_columns, bf16* out, bf16* sum_out) {
  __shared__ __align__(16) float scratch[kWarps];
  const int threads = blockDim.x;
  pdl_trigger();
  const int vectors = columns / 8;
  const int lane = threadIdx.x % 32;
  uint4 scale[kVectors];
  if (kNorm) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = threadIdx.x + i * threads;
      if (v < vectors) scale[i] = load_16(norm_w + v * 8);
    }
    if (threadIdx.x < kWarps) scratch[threadIdx.x] = 0.f;
    __syncthreads();
  }
  const size_t token = blockIdx.x;
  weights += token * slots;
  pdl_wait();

  float sum[kVectors][8];
  float square = 0.f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    // Past the end: the last vector, which nobody stores. All lanes take part in a warp's exchange.
    const int v = min(static_cast<int>(threadIdx.x) + i * threads, vectors - 1);
    const bool is_mine = static_cast<int>(threadIdx.x) + i * threads < vectors;
    size_t start = token * slots * columns + v * 8;
    asm volatile("" : "+l"(start));  // else it is multiplied anew for each slot
    uint4 other;
    if (kNorm) other = load_16(residual + token * columns + v * 8);
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[i][c] = 0.f;
    for (int first = 0; first < slots; first += kRound) {
      uint4 rows[kRound];  // past the end the last slot's, with weight 0
#pragma unroll
      for (int s = 0; s < kRound; ++s) {
        rows[s] = load_16(y + start + min(first + s, slots - 1) * columns);
      }
      const float mine = first + lane < slots ? weights[first + lane] : 0.f;
#pragma unroll
      for (int s = 0; s < kRound; ++s) {
        float part[8];
        unpack_8(rows[s], part);
        const float weight = __shfl_sync(0xffffffffu, mine, s);
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[i][c] += weight * part[c];
      }
    }
    if (!is_mine) continue;
    if (kNorm) {
      float part[8];
      unpack_8(other, part);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        sum[i][c] = round_to_bf16(sum[i][c] + part[c]);
        square += sum[i][c] * sum[i][c];
      }
    }
    store_16((kNorm ? sum_out : out) + token * columns + v * 8, pack_8(sum[i]));
  }
  if (!kNorm) return;

  square = warp_sum(square);
  if (lane == 0) scratch[threadIdx.x / 32] = square;
  __syncthreads();
  square = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w += 4) {
    const float4 of = *reinterpret_cast<const float4*>(scratch + w);
    square += (of.x + of.y) + (of.z + of.w);
  }
  const float inverse = rsqrtf(square * inverse_columns + eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = threadIdx.x + i * threads;
    if (v >= vectors) continue;
    float part[8];
    unpack_8(scale[i], part);
#pragma unroll
    for (int c = 0; c < 8; ++c) part[c] *= sum[i][c] * inverse;
    store_16(out + token * columns + v * 8, pack_8(part));
  }
}

template <bool kNorm>
void run(Context& context, const Tensor& y, const Tensor& weights, const bf16* residual,
         const bf16* norm_w, float eps, bf16* out, bf16* sum) {
  const int columns = static_cast<int>(y.size(1));
  const int vectors = columns / 8;
  const int threads = vectors < kMaxThreads ? (vectors + 31) / 32 * 32 : kMaxThreads;
  launch(context, vectors <= kMaxThreads ? combine<kNorm, 1> : combine<kNorm, kMaxVectors>,
         static_cast<int>(weights.size(0)), threads, 0, y.ptr<bf16>(), weights.ptr<float>(),
         residual, norm_w, eps, static_cast<int>(weights.size(1)), columns,
         1.f / static_cast<float>(columns), out, sum);
}

struct Extents {
  int64_t tokens, columns;
};

Extents check(const Tensor& y, const Tensor& weights) {
  expect(weights, "weights", DType::kF32, {-1, -1});
  expect(y, "y", DType::kBF16, {weights.numel(), -1});
  const int64_t columns = y.size(1);
  if (columns % 8 != 0 || columns < 8 || columns > kMaxColumns) {
    fail("y has " + std::to_string(columns) + " columns, expected a multiple of 8 up to " +
         std::to_string(kMaxColumns));
  }
  return {weights.size(0), columns};
}

}  // namespace

Tensor moe_combine(const Tensor& y, const Tensor& weights) {
  const Extents e = check(y, weights);
  Context& context = y.context();
  Tensor out = context.empty({e.tokens, e.columns}, DType::kBF16);
  run<false>(context, y, weights, nullptr, nullptr, 0.f, out.ptr<bf16>(), nullptr);
  return out;
}

std::pair<Tensor, Tensor> moe_combine_add_rms_norm(const Tensor& y, const Tensor& weights,
                                                   const Tensor& residual, const Tensor& norm_w,
                                                   float eps) {
  const Extents e = check(y, weights);
  expect(residual, "residual", DType::kBF16, {e.tokens, e.columns});
  expect(norm_w, "norm_w", DType::kBF16, {e.columns});
  Context& context = y.context();
  Tensor out = context.empty({e.tokens, e.columns}, DType::kBF16);
  Tensor sum = context.empty({e.tokens, e.columns}, DType::kBF16);
  run<true>(context, y, weights, residual.ptr<bf16>(), norm_w.ptr<bf16>(), eps, out.ptr<bf16>(),
            sum.ptr<bf16>());
  return {out, sum};
}

}  // namespace ernie
