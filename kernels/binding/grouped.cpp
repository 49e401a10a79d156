// Python names of the prefill products; ernie/grouped.h says what they do.
#include "ernie/grouped.h"

#include <optional>

#include "ernie/bindings.h"

void bind_grouped(py::module_& module) {
  using namespace py::literals;
  using ernie::DType;
  using ernie::Tensor;
  module.def(
      "moe_up_large",
      [](const Tensor& x, const ernie::Routing& routing, const Tensor& up_gate, int first_group,
         int num_groups, std::optional<int> slots) {
        if (slots && *slots != routing.slots()) {
          ernie::fail("slots is " + std::to_string(*slots) + ", the routing has " +
                      std::to_string(routing.slots()));
        }
        return ernie::moe_up_large(x, routing, up_gate, first_group, num_groups);
      },
      "x"_a, "routing"_a, "up_gate"_a, "first_group"_a, "num_groups"_a, "slots"_a = py::none(),
      "silu(x gate^T) * (x up^T) of every pair of the groups: x bf16 [T, K], up_gate bf16 "
      "[num_groups, 2 m, K], gate rows first -> bf16 [T * slots, m] at sorted positions; "
      "other groups' rows are not written.");
  module.def("moe_down_large", &ernie::moe_down_large, "h"_a, "routing"_a, "down"_a,
             "first_group"_a, "num_groups"_a, "y"_a,
             "y[routing.order[i]] = h[i] down^T for every row i of the groups: h bf16 "
             "[T * slots, m], down bf16 [num_groups, H, m], y bf16 [T * slots, H].");
  module.def("moe_prefers_small", &ernie::moe_prefers_small, "x"_a, "pairs"_a, "m"_a,
             "Whether moe_up_small and moe_down_small are to be used rather than the large products: "
             "rows like x bf16 [T, H], `pairs` = T * slots, experts of width m.");
  module.def(
      "gemm",
      [](const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias,
         const std::string& activation, const std::optional<Tensor>& residual, DType out_dtype) {
        return ernie::gemm(x, w, bias.value_or(Tensor()), ernie::activation_named(activation),
                           residual.value_or(Tensor()), out_dtype);
      },
      "x"_a, "w"_a, "bias"_a = py::none(), "activation"_a = "", "residual"_a = py::none(),
      "out_dtype"_a = DType::kBF16,
      "activation(x w^T + bias) + residual without cuBLASLt: x bf16 [T, K], w bf16 [N, K], bias "
      "bf16 [N], residual bf16 [T, N], activation \"\", \"gelu\" or \"quick_gelu\" -> [T, N] of "
      "out_dtype bf16 or f32; f32 results take x and w alone.");
}
