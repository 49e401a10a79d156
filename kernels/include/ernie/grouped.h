// Products of many rows with weight matrices: mixture-of-experts layers in prefill, and dense ones.
//
// On sm_90 they run on wgmma fed by the copy engine, elsewhere (and for sizes too small for its
// tiles) on mma.sync. Shapes are known on the host, which rows belong to which expert on the device
// only: nothing here synchronises, all of it can be captured in a graph. Rows are summed in one
// order over K, in float32, and rounded once: a row's result does not depend on its batch.
#pragma once

#include <string>

#include "ernie/route.h"
#include "ernie/tensor.h"

namespace ernie {

// silu(x · gate^T) · (x · up^T) of every pair of groups first_group … first_group + num_groups - 1:
// x bf16 [T, K], up_gate bf16 [num_groups, 2 m, K] with the gate's rows first → bf16 [T · slots, m];
// row i belongs to pair order[i]. Other groups' rows are left unwritten. K and m: multiples of 8.
Tensor moe_up_large(const Tensor& x, const Routing& routing, const Tensor& up_gate, int first_group,
                    int num_groups);

// y[order[i]] = h[i] · down^T for every row i of these groups: h bf16 [T · slots, m], down bf16
// [num_groups, H, m], y bf16 [T · slots, H]. Other rows of y are left as they are.
void moe_down_large(const Tensor& h, const Routing& routing, const Tensor& down, int first_group,
                    int num_groups, const Tensor& y);

// Whether moe_up_small and moe_down_small are the faster pair for `pairs` (token, slot) pairs of rows
// like x and experts of width m, or the only one: few pairs, or no tiles of wgmma to fill.
bool moe_prefers_small(const Tensor& x, int64_t pairs, int64_t m);

enum class Activation : int { kNone, kGelu, kQuickGelu };

// Throws std::invalid_argument unless `name` is "", "gelu" (by erf) or "quick_gelu".
Activation activation_named(const std::string& name);

// activation(x · w^T + bias) + residual: x bf16 [T, K], w bf16 [N, K], bias bf16 [N] and residual
// bf16 [T, N] may be undefined → [T, N] of `out_dtype`, bf16 or f32; f32 results have neither bias,
// activation nor residual. K and N are multiples of 8.
Tensor gemm(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
            const Tensor& residual, DType out_dtype);

}  // namespace ernie
