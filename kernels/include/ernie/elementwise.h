// Norms, activations and row movements over bf16 [T, H]. Sums are float32, rounded once per result.
// H is a multiple of 8 unless a function says otherwise.
#pragma once

#include <utility>
#include <vector>

#include "ernie/tensor.h"

namespace ernie {

// bf16(x · rsqrt(mean(x²) + eps)) · weight: [T, H], [H], H ≤ 32768.
Tensor rms_norm(const Tensor& x, const Tensor& weight, float eps);

// (rms_norm(sum), sum) with sum = bf16(x + residual); without a residual the sum is x.
std::pair<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual,
                                       const Tensor& weight, float eps);

// (x - mean) · rsqrt(variance + eps) · weight + bias: [T, H], [H], [H], H ≤ 32768.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float eps);

// silu(x[:, :m]) · x[:, m:]: [T, 2 m] → [T, m].
Tensor swiglu(const Tensor& x);

enum class Unary : int { kNone, kGelu, kQuickGelu };
Unary unary_named(const std::string& name);  // "", "gelu" (by erf), "quick_gelu"

// activation(x + bias), bias [N] or undefined: [T, N], in place when `in_place`.
Tensor bias_activation(const Tensor& x, const Tensor& bias, Unary activation, bool in_place = false);

Tensor add(const Tensor& a, const Tensor& b);  // bf16 of one shape, any size

// out[i] = x[rows[i]] for rows i32 or i64 [R]; rows outside of x give zeros. Any dtype and row size.
Tensor gather_rows(const Tensor& x, const Tensor& rows);

// table[ids]; an id -1 - s means latest[s], which an earlier step sampled on the device.
// table [V, H], ids i32 [T], latest i32 [seats] or undefined. Ids outside give zeros.
Tensor embedding(const Tensor& table, const Tensor& ids, const Tensor& latest);

// x with x[rows[i]] = values[i]; rows outside are left out. rows i32 or i64, distinct.
Tensor replace_rows(const Tensor& x, const Tensor& rows, const Tensor& values);

Tensor concat_rows(const std::vector<Tensor>& parts);

// concat(x[first], x[second]) along columns: [N, W], i32 [M], i32 [M] → [M, 2 W].
Tensor pair_rows(const Tensor& x, const Tensor& first, const Tensor& second);

// (patches / 255 - mean) / std in float32, then bf16: u8 [N, P], f32 [P], f32 [P].
Tensor normalize_patches(const Tensor& patches, const Tensor& mean, const Tensor& std);

// The last two axes exchanged: [..., a, b] → [..., b, a], 2- or 4-byte elements.
Tensor transpose(const Tensor& x);

Tensor cast(const Tensor& x, DType dtype);  // between bf16 and f32
void fill(const Tensor& x, double value);   // bf16, f32, i32, i64, u8, i8, bool
void copy(const Tensor& target, const Tensor& source);  // same dtype and number of elements

}  // namespace ernie
