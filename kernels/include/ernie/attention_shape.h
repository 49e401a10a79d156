// What the attention functions check and derive from their arguments alike.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "ernie/check.h"
#include "ernie/tensor.h"

namespace ernie {

constexpr float kLog2E = 1.4426950408889634f;

struct AttentionShape {
  int tokens;
  int sequences;
  int nq;
  int nkv;
  int ratio;  // nq / nkv
  int head;   // values of one head
  int block_size;
  int table_width;  // blocks
};

// `nq` is given where q carries more heads than the query's.
inline AttentionShape attention_shape(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                                      const Tensor& block_tables, const Tensor& context_lens,
                                      int64_t nq = 0) {
  expect(k_cache, "k_cache", DType::kBF16, {-1, -1, -1, -1});
  const int64_t nkv = k_cache.size(1), block_size = k_cache.size(2), head = k_cache.size(3);
  expect(v_cache, "v_cache", DType::kBF16, {k_cache.size(0), nkv, block_size, head});
  expect(q, "q", DType::kBF16, {-1, -1, head});
  expect(context_lens, "context_lens", DType::kI32, {-1});
  expect(block_tables, "block_tables", DType::kI32, {context_lens.size(0), -1});
  if (nq == 0) nq = q.size(1);
  if (nkv < 1 || nq % nkv != 0 || nq / nkv < 1 || nq / nkv > 16) {
    fail("q has " + std::to_string(nq) + " heads over " + std::to_string(nkv) +
         " KV heads; expected 1 to 16 for each KV head");
  }
  if (block_size < 16 || block_size % 16 != 0) {
    fail("k_cache: block size " + std::to_string(block_size) + " is no multiple of 16");
  }
  if (k_cache.size(0) * nkv * (block_size / 16) > INT32_MAX) {
    fail("k_cache: " + k_cache.describe() + " has more than 2^31 groups of 16 tokens and a head");
  }
  return {int(q.size(0)), int(context_lens.size(0)), int(nq),         int(nkv),
          int(nq / nkv),  int(head),                 int(block_size), int(block_tables.size(1))};
}

// Calls `function` with std::integral_constant<int, head>.
template <class Function>
void with_head_size(int head, const Function& function) {
  switch (head) {
    case 32: return function(std::integral_constant<int, 32>());
    case 64: return function(std::integral_constant<int, 64>());
    case 72: return function(std::integral_constant<int, 72>());
    case 80: return function(std::integral_constant<int, 80>());
    case 96: return function(std::integral_constant<int, 96>());
    case 128: return function(std::integral_constant<int, 128>());
    default: fail("head size " + std::to_string(head) + "; expected 32, 64, 72, 80, 96 or 128");
  }
}

}  // namespace ernie
