// Linear layers.
#include "ernie/linear.h"

#include "ernie/bindings.h"
#include "ernie/cublaslt.h"

void bind_linear(py::module_& module) {
  using ernie::DType;
  using ernie::Tensor;
  module.def(
      "linear",
      [](const Tensor& x, const Tensor& w, const OptionalTensor& bias, const std::string& activation,
         const OptionalTensor& residual, DType out_dtype) {
        return ernie::linear(x, w, or_none(bias), activation, or_none(residual), out_dtype);
      },
      py::arg("x"), py::arg("w"), py::arg("bias") = py::none(), py::arg("activation") = "",
      py::arg("residual") = py::none(), py::arg("out_dtype") = DType::kBF16,
      "activation(x · wᵀ + bias) + residual: bf16 [T, K], [N, K], [N], [T, N] → [T, N] of out_dtype. "
      "activation is '', 'gelu' (by erf) or 'quick_gelu'; f32 results take x and w alone.");
  module.def(
      "gemm_f32out",
      [](const Tensor& x, const Tensor& w) {
        return ernie::linear(x, w, Tensor(), "", Tensor(), DType::kF32);
      },
      py::arg("x"), py::arg("w"), "x · wᵀ in float32: bf16 [T, K], [N, K] → f32 [T, N].");
  module.def(
      "tune_linear",
      [](ernie::Context& context, bool on) { context.attachment<ernie::CublasLt>().set_tuning(on); },
      py::arg("context"), py::arg("on"),
      "While on, the first product of each kind times cuBLASLt's best algorithms and keeps the "
      "fastest.");
  module.def(
      "set_max_skinny_rows",
      [](ernie::Context& context, int64_t rows) {
        context.attachment<ernie::LinearOptions>().max_skinny_rows = rows;
      },
      py::arg("context"), py::arg("rows"),
      "Up to how many rows `linear` uses the skinny kernel; 0: never.");
  module.def(
      "cublaslt_version",
      [](ernie::Context& context) -> std::optional<size_t> {
        const ernie::CublasLt& library = context.attachment<ernie::CublasLt>();
        if (!library.is_available()) return std::nullopt;
        return library.version();
      },
      py::arg("context"), "The version of the cuBLASLt in use; None where there is none.");
}
