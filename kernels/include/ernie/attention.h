// Rotary embedding, the paged KV cache and attention over it; attention of the vision tower.
//
// Sizes: T token rows, S sequences, nq / nkv query / KV heads (query head h reads KV head
// h / (nq / nkv); at most 16 query heads to one KV head), d head size (32, 64, 72, 80, 96 or 128).
// A cache is bf16 [num_blocks, nkv, block_size, d], block_size a multiple of 16; the slot of a token
// is block · block_size + offset. block_tables i32 [S, B] lists the blocks of each sequence.
// All throw std::invalid_argument for shapes that do not fit; contents are not checked.
#pragma once

#include <utility>

#include "ernie/tensor.h"

namespace ernie {

// Angle of pair i at row t: float32(positions[axes[i]][t]) · inv_freq[i].
// positions i32 [3, T], inv_freq f32 [d / 2], axes i32 [d / 2] → cos, sin f32 [T, d / 2].
std::pair<Tensor, Tensor> rope_table(const Tensor& positions, const Tensor& inv_freq,
                                     const Tensor& axes);

// Turns q and k by the angles, in float32, and writes k and v to their slots; rows with a negative
// slot are not written. qkv bf16 [T, (nq + 2 nkv) d], columns all q, all k, all v;
// slots i64 [T] → q bf16 [T, nq, d]. Pairs are neighbours if `interleaved`, else half a head apart.
Tensor rope_kv_write(const Tensor& qkv, const Tensor& cos, const Tensor& sin, const Tensor& slots,
                     const Tensor& k_cache, const Tensor& v_cache, int nq, bool interleaved);

// One query per sequence: q bf16 [S, nq, d], context_lens i32 [S] → bf16 [S, nq · d].
// A row with context 0 gives zeros. Three kernels share the work, whose roundings differ: one for few
// sequences and, if `long_contexts` asks for it, one that is faster for many keys (both for d 128, at
// most 8 query heads to a KV head, on Hopper), and one for all else. Within one kernel a row's result
// depends on nothing but that row; of few sequences only up to 1,024 keys.
Tensor decode_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                        const Tensor& block_tables, const Tensor& context_lens, float scale,
                        bool long_contexts = false);

// rope_kv_write and decode_attention in one launch, with the same results: qkv bf16
// [S, (nq + 2 nkv) d] before the turn; the newest key and value, at context_lens[s] - 1, are written
// to the cache by way of block_tables. cos, sin f32 [S, d / 2]; d is 32 or 128. Older keys are read
// while the kernel before may still run: a copy or the start of a graph, which wait for all earlier
// work, must lie between the launch that wrote them and this one.
Tensor rope_decode_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                             const Tensor& k_cache, const Tensor& v_cache,
                             const Tensor& block_tables, const Tensor& context_lens, int nq,
                             bool interleaved, float scale, bool long_contexts = false);

// Rows query_starts[s] … query_starts[s + 1] - 1 are the last tokens of sequence s, whose context
// of context_lens[s] keys includes them; each sees the keys up to its own. No sequence may have more
// than max_query_len rows. q bf16 [T, nq, d], query_starts i32 [S + 1] → bf16 [T, nq · d].
Tensor prefill_attention(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                         const Tensor& block_tables, const Tensor& context_lens,
                         const Tensor& query_starts, int max_query_len, float scale);

// Every row attends to all rows of its segment, cu_seqlens[f] … cu_seqlens[f + 1] - 1, after q and k
// are turned by the angles (pairs half a head apart); scores are scaled by d^-0.5. No segment may be
// longer than max_len.
// qkv bf16 [N, 3 · heads · d], columns [q, k, v][head][d]; cos, sin f32 [N, d / 2];
// cu_seqlens i32 [F + 1] → bf16 [N, heads · d].
Tensor vision_attention(const Tensor& qkv, const Tensor& cos, const Tensor& sin,
                        const Tensor& cu_seqlens, int max_len, int heads);

}  // namespace ernie
