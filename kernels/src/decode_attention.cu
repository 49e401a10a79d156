// Attention of one query per sequence over the paged cache: what its three kernels need of the host.
#include <algorithm>

#include "ernie/attention.h"
#include "ernie/attention_shape.h"
#include "ernie/context.h"
#include "ernie/decode_arguments.h"

namespace ernie {
namespace {

enum class DecodeKernel { kGeneral, kLong, kCluster };

DecodeKernel choose(const Context& context, const AttentionShape& shape, bool long_contexts) {
  if (context.capability() / 10 != 9 || shape.head != kHopperHead || shape.ratio > kHopperRatio) {
    return DecodeKernel::kGeneral;
  }
  // Few sequences: with long contexts, too (8 x 16,384 keys 67 us for 83).
  if (shape.sequences <= kDecodeClusterSequences &&
      shape.sequences * shape.nkv <= decode_clusters(context)) {
    return DecodeKernel::kCluster;
  }
  return long_contexts ? DecodeKernel::kLong : DecodeKernel::kGeneral;
}

// Derives the rest of `p` and launches.
Tensor run(Context& context, const AttentionShape& shape, const Tensor& k_cache,
           const Tensor& v_cache, const Tensor& block_tables, const Tensor& context_lens,
           float scale, bool long_contexts, DecodeArguments p, Turn turn) {
  Tensor out = context.empty({shape.sequences, int64_t(shape.nq) * shape.head}, DType::kBF16);
  if (shape.sequences == 0) return out;
  p.k_cache = k_cache.ptr<bf16>();
  p.v_cache = v_cache.ptr<bf16>();
  p.block_tables = block_tables.ptr<int>();
  p.context_lens = context_lens.ptr<int>();
  p.sequences = shape.sequences;
  p.nkv = shape.nkv;
  p.ratio = shape.ratio;
  p.tiles_per_page = shape.block_size / 16;
  p.table_width = shape.table_width;
  p.num_pages = static_cast<int>(k_cache.size(0));
  p.scale = scale * kLog2E;
  const DecodeKernel kernel = choose(context, shape, long_contexts);
  const bool is_cluster = kernel == DecodeKernel::kCluster;
  // The longest contexts fill the device from one sequence: a block for each multiprocessor, of
  // the kernel for long contexts two. Of few sequences every split has a cluster at once.
  // (Joining them needs 2 floats of shared memory each, where the warps' outputs had kHead · 4.)
  const int parts = is_cluster                       ? decode_clusters(context) / shape.sequences
                    : kernel == DecodeKernel::kLong ? 2 * context.sm_count()
                                                     : context.sm_count();
  p.most_splits = std::max(1, std::min(parts / shape.nkv, shape.head / 2));
  const int64_t longest = int64_t(shape.table_width) * shape.block_size;
  p.split_slots = static_cast<int>(std::min<int64_t>(
      p.most_splits, longest <= kDecodeWhole ? 1 : (longest + kDecodeLeast - 1) / kDecodeLeast));

  const int64_t heads = int64_t(shape.sequences) * shape.nkv;
  p.out = out.ptr<bf16>();
  Tensor partial_out, partial_sum;
  if (p.split_slots > 1) {
    partial_out = context.empty({heads * p.split_slots * shape.ratio, shape.head}, DType::kF32);
    const int64_t sharing = is_cluster ? kDecodeCluster : 1;
    partial_sum = context.empty({heads * p.split_slots * sharing * shape.ratio, 2}, DType::kF32);
    p.partial_out = partial_out.ptr<float>();
    p.partial_sum = partial_sum.ptr<float2>();
    p.arrivals = static_cast<int*>(context.workspace(heads * sharing * sizeof(int)));
  }
  switch (kernel) {
    case DecodeKernel::kGeneral: decode_attention_general(context, p, shape.head, turn); break;
    case DecodeKernel::kLong: decode_attention_long(context, p, turn); break;
    case DecodeKernel::kCluster: decode_attention_cluster(context, p, turn); break;
  }
  return out;
}

}  // namespace

Tensor decode_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                        const Tensor& block_tables, const Tensor& context_lens, float scale,
                        bool long_contexts) {
  const AttentionShape shape = attention_shape(q, k_cache, v_cache, block_tables, context_lens);
  if (q.size(0) != shape.sequences) {
    fail("q has " + std::to_string(q.size(0)) + " rows; expected one for each of " +
         std::to_string(shape.sequences) + " sequences");
  }
  DecodeArguments p{};
  p.q = q.ptr<bf16>();
  p.q_stride = shape.nq * shape.head;
  return run(q.context(), shape, k_cache, v_cache, block_tables, context_lens, scale, long_contexts,
             p, Turn::kDone);
}

Tensor rope_decode_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                             const Tensor& k_cache, const Tensor& v_cache,
                             const Tensor& block_tables, const Tensor& context_lens, int nq,
                             bool interleaved, float scale, bool long_contexts) {
  expect(k_cache, "k_cache", DType::kBF16, {-1, -1, -1, -1});
  const int64_t nkv = k_cache.size(1), head = k_cache.size(3);
  if (head != 32 && head != 128) {
    fail("head size " + std::to_string(head) + "; expected 32 or 128");
  }
  if (nq < 1) fail("nq is " + std::to_string(nq) + "; expected at least 1");
  expect(context_lens, "context_lens", DType::kI32, {-1});
  const int64_t rows = context_lens.size(0);
  expect(qkv, "qkv", DType::kBF16, {rows, (nq + 2 * nkv) * head});
  expect(cos, "cos", DType::kF32, {rows, head / 2});
  expect(sin, "sin", DType::kF32, {rows, head / 2});
  const Tensor heads = qkv.view({rows, nq + 2 * nkv, head});
  AttentionShape shape =
      attention_shape(heads, k_cache, v_cache, block_tables, context_lens, nq);
  DecodeArguments p{};
  p.q = qkv.ptr<bf16>();
  p.q_stride = static_cast<int>(qkv.size(1));
  p.cosines = cos.ptr<float>();
  p.sines = sin.ptr<float>();
  return run(qkv.context(), shape, k_cache, v_cache, block_tables, context_lens, scale,
             long_contexts, p, interleaved ? Turn::kNeighbours : Turn::kHalves);
}

}  // namespace ernie
