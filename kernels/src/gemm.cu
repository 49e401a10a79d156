// Dense products, for where cuBLASLt is absent: one group that holds every row.
#include "ernie/grouped.h"

#include "ernie/wgmma_product.cuh"

namespace ernie {
namespace {

template <Job kJob>
void run(Context& context, const Product& p) {
  if (wgmma::suits(context, p.columns, p.k)) {
    wgmma::run<kJob>(context, p);
  } else {
    run_fallback(context, kJob, p);
  }
}

}  // namespace

Activation activation_named(const std::string& name) {
  if (name.empty()) return Activation::kNone;
  if (name == "gelu") return Activation::kGelu;
  if (name == "quick_gelu") return Activation::kQuickGelu;
  fail("activation: \"" + name + "\" is none of \"\", \"gelu\", \"quick_gelu\"");
}

Tensor gemm(const Tensor& x, const Tensor& w, const Tensor& bias, Activation activation,
            const Tensor& residual, DType out_dtype) {
  expect(x, "x", DType::kBF16, {-1, -1});
  expect(w, "w", DType::kBF16, {-1, x.size(1)});
  const int64_t rows = x.size(0), columns = w.size(0), k = x.size(1);
  if (k % 8 != 0 || columns % 8 != 0) {
    fail("w: the sizes of " + w.describe() + " must be multiples of 8");
  }
  if (bias.defined()) expect(bias, "bias", DType::kBF16, {columns});
  if (residual.defined()) expect(residual, "residual", DType::kBF16, {rows, columns});
  if (out_dtype != DType::kBF16 && out_dtype != DType::kF32) {
    fail(std::string("out_dtype: ") + name_of(out_dtype) + " is neither bf16 nor f32");
  }
  if (out_dtype == DType::kF32 &&
      (bias.defined() || residual.defined() || activation != Activation::kNone)) {
    fail("out_dtype: f32 results have neither bias, activation nor residual");
  }
  Context& context = x.context();
  Tensor out = context.empty({rows, columns}, out_dtype);
  if (rows == 0) return out;
  Product p{};
  p.groups.num_groups = 1;
  p.groups.rows = static_cast<int>(rows);
  p.columns = static_cast<int>(columns);
  p.k = static_cast<int>(k);
  p.x = x.ptr<const bf16>();
  p.w = w.ptr<const bf16>();
  p.out = out.data();
  p.bias = bias.defined() ? bias.ptr<const bf16>() : nullptr;
  p.residual = residual.defined() ? residual.ptr<const bf16>() : nullptr;
  p.activation = activation;
  if (out_dtype == DType::kF32) {
    run<Job::kDenseFloat>(context, p);
  } else if (activation == Activation::kNone) {
    run<Job::kDense>(context, p);
  } else {
    run<Job::kDenseActivated>(context, p);
  }
  return out;
}

}  // namespace ernie
