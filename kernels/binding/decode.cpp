// Python names of the router and of the decode-side products; ernie/route.h, ernie/skinny.h and
// ernie/moe_small.h say what they do.
#include <optional>

#include "ernie/bindings.h"
#include "ernie/moe_small.h"
#include "ernie/route.h"
#include "ernie/skinny.h"

namespace {

using ernie::DType;
using ernie::Routing;
using ernie::Tensor;
using OptionalTensor = std::optional<Tensor>;

void check_slots(const Routing& routing, std::optional<int> slots) {
  if (slots && *slots != routing.slots()) {
    ernie::fail("slots is " + std::to_string(*slots) + ", the routing has " +
                std::to_string(routing.slots()));
  }
}

void bind_routing(py::module_& module) {
  using namespace py::literals;
  py::class_<Routing>(module, "Routing",
                      "Experts of each token and the pairs sorted by them. Groups: text experts "
                      "0 ... E-1, shared E ... E+S-1, vision experts from E+S on.")
      .def(py::init(&ernie::make_routing), "ids"_a, "weights"_a, "order"_a, "offsets"_a,
           "num_experts"_a, "num_shared"_a)
      .def_readonly("ids", &Routing::ids, "i32 [T, slots]: group of each pair, shared ones last.")
      .def_readonly("weights", &Routing::weights, "f32 [T, slots]; 1 for shared groups.")
      .def_readonly("order", &Routing::order,
                    "i32 [T * slots]: pairs t * slots + s sorted by group, then by pair.")
      .def_readonly("offsets", &Routing::offsets,
                    "i32 [G + 1]: group g has order[offsets[g]:offsets[g + 1]].")
      .def_readonly("num_experts", &Routing::num_experts)
      .def_readonly("num_shared", &Routing::num_shared)
      .def_property_readonly("slots", &Routing::slots);
  module.def(
      "moe_route",
      [](const Tensor& x, const Tensor& gate, const Tensor& bias, int top_k, float norm_min,
         int num_shared, const OptionalTensor& vision_gate, const OptionalTensor& vision_bias,
         const OptionalTensor& is_vision) {
        return ernie::moe_route(x, gate, bias, top_k, norm_min, num_shared,
                                vision_gate.value_or(Tensor()), vision_bias.value_or(Tensor()),
                                is_vision.value_or(Tensor()));
      },
      "x"_a, "gate"_a, "bias"_a, "top_k"_a, "norm_min"_a, "num_shared"_a,
      "vision_gate"_a = py::none(), "vision_bias"_a = py::none(), "is_vision"_a = py::none(),
      "p = softmax(x gate^T) in float32; the top_k experts by p + bias (the lower index wins a "
      "tie) with weights p / max(sum of the chosen p, norm_min), then num_shared shared experts "
      "with weight 1. x bf16 [T, H], gate f32 [E, H], bias f32 [E]; tokens with is_vision (u8 [T]) "
      "take vision_gate f32 [Ev, H] and vision_bias f32 [Ev] -> Routing.");
}

}  // namespace

void bind_decode(py::module_& module) {
  using namespace py::literals;
  bind_routing(module);
  module.attr("SKINNY_ROWS") = ernie::kSkinnyRows;
  module.attr("SMALL_PAIRS") = ernie::kSmallPairs;
  module.def(
      "skinny_linear",
      [](const Tensor& x, const Tensor& w, const OptionalTensor& bias,
         const OptionalTensor& residual, DType out_dtype, int tile_rows) {
        return ernie::skinny_linear(x, w, bias.value_or(Tensor()), residual.value_or(Tensor()),
                                    out_dtype, tile_rows);
      },
      "x"_a, "w"_a, "bias"_a = py::none(), "residual"_a = py::none(), "out_dtype"_a = DType::kBF16,
      "tile_rows"_a = 0,
      "x w^T + bias + residual for few rows: x bf16 [T <= SKINNY_ROWS, K], w bf16 [N, K], bias "
      "bf16 [N], residual bf16 [T, N] -> [T, N] of out_dtype bf16 or f32. K, N: multiples of 8. "
      "tile_rows overrules the choice of 16, 32, 64 or 128 weight rows to a tile.");
  module.def("skinny_linear_swiglu", &ernie::skinny_linear_swiglu, "x"_a, "w"_a,
             "silu(x gate^T) * (x up^T) for few rows: x bf16 [T <= SKINNY_ROWS, K], w bf16 [2m, K], "
             "gate rows first -> bf16 [T, m].");
  py::class_<ernie::ExpertTuning>(module, "ExpertTuning",
                                  "How moe_up_small and moe_down_small divide their work: weight "
                                  "rows to a tile (0: by the tokens), blocks to a multiprocessor, "
                                  "KB of weights in a stage.")
      .def(py::init([](int tile_rows, int blocks_per_sm, int stage_kb) {
             return ernie::ExpertTuning{tile_rows, blocks_per_sm, stage_kb};
           }),
           "tile_rows"_a = 0, "blocks_per_sm"_a = 2, "stage_kb"_a = 16);
  module.def(
      "moe_up_small",
      [](const Tensor& x, Routing& routing, const Tensor& up_gate, int first_group,
         int num_groups, std::optional<int> slots,
         const ernie::ExpertTuning& tuning) {
        check_slots(routing, slots);
        return ernie::moe_up_small(x, routing, up_gate, first_group, num_groups, tuning);
      },
      "x"_a, "routing"_a, "up_gate"_a, "first_group"_a, "num_groups"_a, "slots"_a = py::none(),
      "tuning"_a = ernie::ExpertTuning(),
      "silu(x gate^T) * (x up^T) of every pair of the groups, for T * slots <= SMALL_PAIRS: x bf16 "
      "[T, H], up_gate bf16 [num_groups, 2m, H], gate rows first -> bf16 [T * slots, m]; row i "
      "belongs to pair routing.order[i]; other groups' rows are not written.");
  module.def("moe_down_small", &ernie::moe_down_small, "h"_a, "routing"_a, "down"_a,
             "first_group"_a, "num_groups"_a, "y"_a, "tuning"_a = ernie::ExpertTuning(),
             "y[routing.order[i]] = h[i] down^T for every row i of the groups: h bf16 "
             "[T * slots, m], down bf16 [num_groups, H, m], y bf16 [T * slots, H].");
  module.def("moe_combine", &ernie::moe_combine, "y"_a, "weights"_a,
             "Sum over slots of weight times y: y bf16 [T * slots, H], weights f32 [T, slots] -> "
             "bf16 [T, H].");
  module.def("moe_combine_add_rms_norm", &ernie::moe_combine_add_rms_norm, "y"_a, "weights"_a,
             "residual"_a, "norm_w"_a, "eps"_a,
             "(s / sqrt(mean(s^2) + eps) * norm_w, s) with s = moe_combine(y, weights) + residual: "
             "residual bf16 [T, H], norm_w bf16 [H] -> two bf16 [T, H].");
}
