// Linear layers for few rows: limited by reading the weights once, at the memory's full rate.
//
// T <= kSkinnyRows rows; K and N multiples of 8; everything row-major, weights [out, in]. Sums are
// float32 and rounded once.
#pragma once

#include "ernie/tensor.h"

namespace ernie {

constexpr int kSkinnyRows = 64;

// x · wᵀ + bias + residual: x bf16 [T, K], w bf16 [N, K], bias bf16 [N] or undefined, residual
// bf16 [T, N] or undefined → [T, N] of out_dtype (bf16 or f32).
// tile_rows (16, 32, 64 or 128 weight rows) overrules the choice of the tile.
Tensor skinny_linear(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                     const Tensor& residual = {}, DType out_dtype = DType::kBF16,
                     int tile_rows = 0);

// silu(x · gateᵀ) · (x · upᵀ): w bf16 [2m, K], gate rows first → bf16 [T, m].
Tensor skinny_linear_swiglu(const Tensor& x, const Tensor& w);

}  // namespace ernie
