// x · wᵀ by the implementation that suits the number of rows.
#pragma once

#include <string>

#include "ernie/tensor.h"

namespace ernie {

class Context;

// How `linear` chooses; a context attachment.
struct LinearOptions {
  explicit LinearOptions(Context&) {}
  // Up to here weights are read by the skinny kernel, which fetches them before its inputs are
  // ready; from more rows on the library's tiles are full enough to read them as fast.
  int64_t max_skinny_rows = 8;
};

// activation(x · wᵀ + bias) + residual: x bf16 [T, K], w bf16 [N, K], bias bf16 [N] and residual
// bf16 [T, N] may be undefined; activation "", "gelu" (by erf) or "quick_gelu" → [T, N] of
// out_dtype (bf16 or f32). K and N are multiples of 4. Not both an activation and a residual; f32
// results have neither bias, activation nor residual. Few rows are read at memory speed, more go to
// cuBLASLt, or to the own tile kernel where that library is missing.
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const std::string& activation,
              const Tensor& residual, DType out_dtype = DType::kBF16);

}  // namespace ernie
