#include "ernie/linear.h"

#include "ernie/check.h"
#include "ernie/context.h"
#include "ernie/cublaslt.h"
#include "ernie/elementwise.h"
#ifdef ERNIE_HAS_DECODE
#include "ernie/skinny.h"
#endif
#ifdef ERNIE_HAS_GROUPED
#include "ernie/grouped.h"
#endif

namespace ernie {

namespace {

void check(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
           Unary activation, DType out_dtype) {
  expect(x, "x", DType::kBF16, {-1, -1});
  expect(w, "w", DType::kBF16, {-1, x.size(1)}, x);
  if (bias.defined()) expect(bias, "bias", DType::kBF16, {w.size(0)}, x);
  if (residual.defined()) {
    expect(residual, "residual", DType::kBF16, {x.size(0), w.size(0)}, x);
    if (activation != Unary::kNone) fail("residual: not together with an activation");
  }
  if (x.size(1) == 0 || x.size(1) % 4 != 0 || w.size(0) % 4 != 0) {
    fail("w: " + w.describe() + "; both extents must be multiples of 4");
  }
  if (out_dtype == DType::kF32) {
    if (bias.defined() || residual.defined() || activation != Unary::kNone) {
      fail("out_dtype: f32 results have neither bias, activation nor residual");
    }
  } else if (out_dtype != DType::kBF16) {
    fail(std::string("out_dtype: expected bf16 or f32, found ") + name_of(out_dtype));
  }
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const std::string& activation,
              const Tensor& residual, DType out_dtype) {
  const Unary unary = unary_named(activation);
  check(x, w, bias, residual, unary, out_dtype);
  Context& context = x.context();
  const int64_t rows = x.size(0), width = w.size(0);
  if (rows == 0 || width == 0) return context.empty({rows, width}, out_dtype);
#if defined(ERNIE_HAS_DECODE) || defined(ERNIE_HAS_GROUPED)
  const bool fits_own = x.size(1) % 8 == 0 && width % 8 == 0;
#endif
#ifdef ERNIE_HAS_DECODE
  if (rows <= context.attachment<LinearOptions>().max_skinny_rows && fits_own) {
    Tensor y = skinny_linear(x, w, bias, residual, out_dtype);
    return unary == Unary::kNone ? y : bias_activation(y, Tensor(), unary, true);
  }
#endif
  CublasLt& library = context.attachment<CublasLt>();
  if (library.is_available()) {
    Tensor y = context.empty({rows, width}, out_dtype);
    // An activation wants the bias too, unrounded: it then comes with the activation.
    const bool bias_later = unary != Unary::kNone;
    library.multiply(x, w, bias_later ? Tensor() : bias, residual, y);
    return bias_later ? bias_activation(y, bias, unary, true) : y;
  }
#ifdef ERNIE_HAS_GROUPED
  if (fits_own) {
    return gemm(x, w, bias, activation_named(activation), residual, out_dtype);
  }
#endif
  fail("linear: w " + w.describe() + " needs cuBLASLt: " + library.missing());
}

}  // namespace ernie
