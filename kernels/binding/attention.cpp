// Python names of the attention functions; ernie/attention.h says what they do.
#include "ernie/attention.h"
#include "ernie/bindings.h"

void bind_attention(py::module_& module) {
  using namespace py::literals;
  module.def("rope_table", &ernie::rope_table, "positions"_a, "inv_freq"_a, "axes"_a,
             "Angles float32(positions[axes[i]]) * inv_freq[i] of every row: positions i32 [3, T], "
             "inv_freq f32 [d / 2], axes i32 [d / 2] -> (cos, sin), f32 [T, d / 2] each.");
  module.def("rope_kv_write", &ernie::rope_kv_write, "qkv"_a, "cos"_a, "sin"_a, "slots"_a,
             "k_cache"_a, "v_cache"_a, "nq"_a, "interleaved"_a,
             "Turns q and k, writes k and v to their slots (a negative slot: not written). "
             "qkv bf16 [T, (nq + 2 nkv) d], cos and sin f32 [T, d / 2], slots i64 [T], caches bf16 "
             "[num_blocks, nkv, block_size, d] -> q bf16 [T, nq, d].");
  module.def("decode_attention", &ernie::decode_attention, "q"_a, "k_cache"_a, "v_cache"_a,
             "block_tables"_a, "context_lens"_a, "scale"_a, "long_contexts"_a = false,
             "One query per sequence over its context: q bf16 [S, nq, d], block_tables i32 [S, B], "
             "context_lens i32 [S] (0: a padding row, gives zeros) -> bf16 [S, nq * d]. "
             "long_contexts: by the kernel made for many keys, if this shape has one.");
  module.def("rope_decode_attention", &ernie::rope_decode_attention, "qkv"_a, "cos"_a, "sin"_a,
             "k_cache"_a, "v_cache"_a, "block_tables"_a, "context_lens"_a, "nq"_a, "interleaved"_a,
             "scale"_a, "long_contexts"_a = false,
             "rope_kv_write and decode_attention in one launch: qkv bf16 [S, (nq + 2 nkv) d] with d "
             "32 or 128, cos and sin f32 [S, d / 2]; the newest key and value of each sequence go to "
             "position context_lens[s] - 1 of its blocks -> bf16 [S, nq * d].");
  module.def("prefill_attention", &ernie::prefill_attention, "q"_a, "k_cache"_a, "v_cache"_a,
             "block_tables"_a, "context_lens"_a, "query_starts"_a, "max_query_len"_a, "scale"_a,
             "Causal attention of the last rows of each context: q bf16 [T, nq, d], query_starts "
             "i32 [S + 1], no sequence with more than max_query_len rows -> bf16 [T, nq * d].");
  module.def("vision_attention", &ernie::vision_attention, "qkv"_a, "cos"_a, "sin"_a,
             "cu_seqlens"_a, "max_len"_a, "heads"_a,
             "Full attention inside segments, q and k turned by the angles (halves): qkv bf16 "
             "[N, 3 heads d], cos and sin f32 [N, d / 2], cu_seqlens i32 [F + 1] -> bf16 "
             "[N, heads d].");
}
