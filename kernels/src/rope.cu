// Rotary tables, and the turn of q and k on the way to the KV cache. Both kernels move bytes: each
// value is read once and written once.
#include "ernie/attention.h"
#include "ernie/context.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/rope.cuh"

#include <string>

namespace ernie {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    rope_table_kernel(const int* positions, const float* inv_freq, const int* axes, float* cosines,
                      float* sines, int tokens, int pairs) {
  pdl_trigger();
  pdl_wait();
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= int64_t(tokens) * pairs) return;
  const int token = static_cast<int>(index / pairs);
  const int pair = static_cast<int>(index % pairs);
  const int position = positions[int64_t(axes[pair]) * tokens + token];
  const float angle = static_cast<float>(position) * inv_freq[pair];
  float sine, cosine;
  sincosf(angle, &sine, &cosine);
  cosines[index] = cosine;
  sines[index] = sine;
}

struct RopeArguments {
  const bf16* qkv;
  const float* cosines;
  const float* sines;
  const int64_t* slots;
  bf16* q;
  bf16* k_cache;
  bf16* v_cache;
  int tokens;
  int nq;
  int nkv;
  int head;
  int block_size;
};

// A thread owns eight values of one head of one token: four pairs of q or k, or a piece of v.
template <bool kInterleaved>
__global__ void __launch_bounds__(kThreads) rope_kv_write_kernel(const RopeArguments p) {
  pdl_trigger();
  pdl_wait();
  const int pieces = p.head / 8;
  const int heads = p.nq + 2 * p.nkv;
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = index / pieces;
  const int piece = static_cast<int>(index - row * pieces);
  const int64_t token = row / heads;
  const int head = static_cast<int>(row - token * heads);
  if (token >= p.tokens) return;

  const bf16* from = p.qkv + row * p.head;
  bf16* to = p.q + (token * p.nq + head) * p.head;
  if (head >= p.nq) {
    const int64_t slot = p.slots[token];
    if (slot < 0) return;
    const bool is_key = head < p.nq + p.nkv;
    const int kv_head = head - p.nq - (is_key ? 0 : p.nkv);
    const int64_t block = slot / p.block_size;
    const int64_t offset = slot - block * p.block_size;
    to = (is_key ? p.k_cache : p.v_cache) +
         ((block * p.nkv + kv_head) * p.block_size + offset) * p.head;
    if (!is_key) {
      store_16(to + piece * 8, load_16(from + piece * 8));
      return;
    }
  }
  const int64_t angle = token * (p.head / 2) + piece * 4;
  const float* cosines = p.cosines + angle;
  const float* sines = p.sines + angle;
  if (kInterleaved) {
    float f[8], a[4], b[4];
    unpack_8(load_16(from + piece * 8), f);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = f[2 * i], b[i] = f[2 * i + 1];
    turn_pairs(a, b, *reinterpret_cast<const float4*>(cosines),
               *reinterpret_cast<const float4*>(sines));
#pragma unroll
    for (int i = 0; i < 4; ++i) f[2 * i] = a[i], f[2 * i + 1] = b[i];
    store_16(to + piece * 8, pack_8(f));
  } else {
    turn_halves(from + piece * 4, to + piece * 4, p.head / 2, cosines, sines);
  }
}

unsigned blocks_for(int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

}  // namespace

std::pair<Tensor, Tensor> rope_table(const Tensor& positions, const Tensor& inv_freq,
                                     const Tensor& axes) {
  expect(positions, "positions", DType::kI32, {3, -1});
  expect(inv_freq, "inv_freq", DType::kF32, {-1});
  expect(axes, "axes", DType::kI32, {inv_freq.size(0)});
  Context& context = positions.context();
  const int64_t tokens = positions.size(1), pairs = inv_freq.size(0);
  Tensor cosines = context.empty({tokens, pairs}, DType::kF32);
  Tensor sines = context.empty({tokens, pairs}, DType::kF32);
  launch(context, rope_table_kernel, dim3(blocks_for(tokens * pairs)), dim3(kThreads), 0,
         positions.ptr<int>(), inv_freq.ptr<float>(), axes.ptr<int>(), cosines.ptr<float>(),
         sines.ptr<float>(), static_cast<int>(tokens), static_cast<int>(pairs));
  return {cosines, sines};
}

Tensor rope_kv_write(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& slots,
                     const Tensor& k_cache, const Tensor& v_cache, int nq, bool interleaved) {
  expect(k_cache, "k_cache", DType::kBF16, {-1, -1, -1, -1});
  const int64_t nkv = k_cache.size(1), block_size = k_cache.size(2), head = k_cache.size(3);
  if (nq < 1) fail("nq is " + std::to_string(nq) + "; expected at least 1");
  if (head % 8 != 0) fail("k_cache: head size " + std::to_string(head) + " is no multiple of 8");
  expect(v_cache, "v_cache", DType::kBF16, {k_cache.size(0), nkv, block_size, head});
  expect(qkv, "qkv", DType::kBF16, {-1, (nq + 2 * nkv) * head});
  const int64_t tokens = qkv.size(0);
  expect(cos, "cos", DType::kF32, {tokens, head / 2});
  expect(sin, "sin", DType::kF32, {tokens, head / 2});
  expect(slots, "slots", DType::kI64, {tokens});
  Context& context = qkv.context();
  Tensor q = context.empty({tokens, nq, head}, DType::kBF16);
  const RopeArguments arguments{qkv.ptr<bf16>(),     cos.ptr<float>(),    sin.ptr<float>(),
                                slots.ptr<int64_t>(), q.ptr<bf16>(),      k_cache.ptr<bf16>(),
                                v_cache.ptr<bf16>(), int(tokens),         nq,
                                int(nkv),            int(head),           int(block_size)};
  const auto kernel = interleaved ? rope_kv_write_kernel<true> : rope_kv_write_kernel<false>;
  launch(context, kernel, dim3(blocks_for(tokens * (nq + 2 * nkv) * (head / 8))), dim3(kThreads), 0,
         arguments);
  return q;
}

}  // namespace ernie
