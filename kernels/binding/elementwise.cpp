// Norms, activations and row movements.
#include "ernie/elementwise.h"

#include "ernie/bindings.h"

void bind_elementwise(py::module_& module) {
  using ernie::Tensor;
  module.def("rms_norm", &ernie::rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"),
             "bf16(x / sqrt(mean(x²) + eps)) · weight in float32: bf16 [T, H], [H] → [T, H].");
  module.def(
      "add_rms_norm",
      [](const Tensor& x, const OptionalTensor& residual, const Tensor& weight, float eps) {
        return ernie::add_rms_norm(x, or_none(residual), weight, eps);
      },
      py::arg("x"), py::arg("residual"), py::arg("weight"), py::arg("eps"),
      "(rms_norm(s), s) with s = x + residual in bf16; without a residual s is x itself.");
  module.def("layer_norm", &ernie::layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"),
             py::arg("eps"), "LayerNorm of rows in float32: bf16 [T, H], [H], [H] → [T, H].");
  module.def("swiglu", &ernie::swiglu, py::arg("x"),
             "silu(x[:, :m]) · x[:, m:]: bf16 [T, 2 m] → [T, m].");
  module.def(
      "bias_activation",
      [](const Tensor& x, const OptionalTensor& bias, const std::string& activation) {
        return ernie::bias_activation(x, or_none(bias), ernie::unary_named(activation));
      },
      py::arg("x"), py::arg("bias") = py::none(), py::arg("activation") = "",
      "activation(x + bias): bf16 [T, N], [N]; '', 'gelu' (by erf) or 'quick_gelu'.");
  module.def("add", &ernie::add, py::arg("a"), py::arg("b"), "a + b of one shape, bf16.");
  module.def(
      "embedding",
      [](const Tensor& table, const Tensor& ids, const OptionalTensor& latest) {
        return ernie::embedding(table, ids, or_none(latest));
      },
      py::arg("table"), py::arg("ids"), py::arg("latest") = py::none(),
      "table[ids]: bf16 [V, H], i32 [T] → [T, H]. An id -1 - s stands for latest[s], i32 [seats]: "
      "what `sample` wrote for seat s. Other ids outside of the table give zeros.");
  module.def("gather_rows", &ernie::gather_rows, py::arg("x"), py::arg("rows"),
             "x[rows]: any [T, ...], i32 or i64 [R] → [R, ...]; rows outside give zeros.");
  module.def("replace_rows", &ernie::replace_rows, py::arg("x"), py::arg("rows"), py::arg("values"),
             "A copy of x with x[rows[i]] = values[i]; rows are distinct, those outside left out.");
  module.def("concat_rows", &ernie::concat_rows, py::arg("parts"), "Parts end to end.");
  module.def("pair_rows", &ernie::pair_rows, py::arg("x"), py::arg("first"), py::arg("second"),
             "concat(x[first], x[second]) along columns: [N, W], i32 [M], i32 [M] → [M, 2 W].");
  module.def("normalize_patches", &ernie::normalize_patches, py::arg("patches"), py::arg("mean"),
             py::arg("std"),
             "(patches / 255 - mean) / std in float32, then bf16: u8 [N, P], f32 [P], f32 [P].");
  module.def("transpose", &ernie::transpose, py::arg("x"),
             "The last two axes exchanged, 2- or 4-byte elements: [..., a, b] → [..., b, a].");
  module.def("cast", &ernie::cast, py::arg("x"), py::arg("dtype"), "Between bf16 and f32.");
  module.def("fill", &ernie::fill, py::arg("x"), py::arg("value"));
  module.def("copy", &ernie::copy, py::arg("target"), py::arg("source"),
             "Overwrite target with source: one dtype, one number of elements.");
}
