// Experts for few tokens: each active expert's weights are read once, at the memory's full rate.
//
// Routing and its group numbering: ernie/route.h. A call serves groups first_group …
// first_group + num_groups - 1, whose weights are table entries 0 … num_groups - 1. H and m are
// multiples of 8; T · slots <= kSmallPairs.
#pragma once

#include <utility>

#include "ernie/route.h"
#include "ernie/tensor.h"

namespace ernie {

constexpr int kSmallPairs = 4096;

// What the bench varies; the defaults are what it found best.
struct ExpertTuning {
  int tile_rows = 0;      // 16, 32, 64 or 128 weight rows to a tile; 0: by the tokens
  int blocks_per_sm = 2;  // as far as they fit
  int stage_kb = 16;      // of weights: 16, or 32 for tiles of 128 rows
};

// silu(x · gateᵀ) · (x · upᵀ) of every pair of the groups: x bf16 [T, H], up_gate bf16
// [num_groups, 2m, H], gate rows first → h bf16 [T · slots, m]; row i belongs to pair order[i].
// Rows of other groups are left as they are.
Tensor moe_up_small(const Tensor& x, Routing& routing, const Tensor& up_gate, int first_group,
                    int num_groups, const ExpertTuning& tuning = {});

// h · downᵀ of every pair of the groups: down bf16 [num_groups, H, m] → rows order[i] of y bf16
// [T · slots, H]. Rows of other groups are left as they are.
void moe_down_small(const Tensor& h, Routing& routing, const Tensor& down, int first_group,
                    int num_groups, const Tensor& y, const ExpertTuning& tuning = {});

// Sum over a token's slots of weight · y, in float32: y bf16 [T · slots, H], weights f32 [T, slots]
// → bf16 [T, H].
Tensor moe_combine(const Tensor& y, const Tensor& weights);

// (rms_norm(s) · norm_w, s) with s = moe_combine(y, weights) + residual, rounded once; the norm is
// s / sqrt(mean(s²) + eps). residual bf16 [T, H], norm_w bf16 [H] → two bf16 [T, H].
std::pair<Tensor, Tensor> moe_combine_add_rms_norm(const Tensor& y, const Tensor& weights,
                                                   const Tensor& residual, const Tensor& norm_w,
                                                   float eps);

}  // namespace ernie
