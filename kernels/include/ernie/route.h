// The router: which experts each token takes, with what weight, and the pairs sorted by expert.
//
// Sizes: T tokens, H hidden, E text experts, S shared experts, Ev vision experts. Groups have one
// numbering: text experts 0 … E-1, shared E … E+S-1, vision experts E+S … E+S+Ev-1; G of them.
// A token has slots = top_k + S; pair p = t · slots + s is slot s of token t.
#pragma once

#include "ernie/tensor.h"

namespace ernie {

struct Routing {
  Tensor ids;      // i32 [T, slots]: group of each pair; the shared groups come last
  Tensor weights;  // f32 [T, slots]; 1 for the shared groups
  Tensor order;    // i32 [T · slots]: pairs sorted by group, by pair index inside a group
  Tensor offsets;  // i32 [G + 1]: group g has order[offsets[g]] … order[offsets[g + 1] - 1]
  Tensor tickets;  // i32 [kTickets]: work counters of the kernels that read this; zero between them
  int num_experts = 0;  // E
  int num_shared = 0;   // S

  static constexpr int kTickets = 2;

  int num_tokens() const { return static_cast<int>(ids.size(0)); }
  int slots() const { return static_cast<int>(ids.size(1)); }
  int num_groups() const { return static_cast<int>(offsets.size(0)) - 1; }
};

// A routing made elsewhere; `tickets` is allocated and zeroed. Throws std::invalid_argument for
// tensors of other shapes.
Routing make_routing(const Tensor& ids, const Tensor& weights, const Tensor& order,
                     const Tensor& offsets, int num_experts, int num_shared);

// p = softmax(x · gate) in float32; the top_k experts by p + bias (the lower index wins a tie) with
// weights p / max(sum of the chosen p, norm_min); then the S shared experts with weight 1.
// x bf16 [T, H], gate f32 [E, H], bias f32 [E]; tokens whose is_vision (u8 [T]) is not 0 take
// vision_gate [Ev, H] and vision_bias [Ev] (all three or none may be given). H a multiple of 8,
// top_k <= E, Ev; E, Ev <= 256.
Routing moe_route(const Tensor& x, const Tensor& gate, const Tensor& bias, int top_k,
                  float norm_min, int num_shared, const Tensor& vision_gate = {},
                  const Tensor& vision_bias = {}, const Tensor& is_vision = {});

}  // namespace ernie
