// What is done to each value on its own: SwiGLU, bias with GELU, sums, casts, fills.
#include <algorithm>

#include "ernie/check.h"
#include "ernie/elementwise.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/vector.cuh"

namespace ernie {

namespace {

constexpr int kThreads = 256;

// Enough blocks to fill the device several times; each then strides over the rest.
dim3 blocks_for(const Context& context, int64_t items) {
  const int64_t most = static_cast<int64_t>(context.sm_count()) * 16;
  return dim3(static_cast<unsigned>(std::min((items + kThreads - 1) / kThreads, most)));
}

__device__ __forceinline__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

__device__ __forceinline__ int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * kThreads; }

__device__ __forceinline__ float sigmoid(float t) { return 1.f / (1.f + __expf(-t)); }

template <Unary kActivation>
__device__ __forceinline__ float activate(float t) {
  // Exact GELU: t · Φ(t), Φ the normal distribution function.
  if (kActivation == Unary::kGelu) return 0.5f * t * (1.f + erff(t * 0.70710678118654752f));
  if (kActivation == Unary::kQuickGelu) return t * sigmoid(1.702f * t);
  return t;
}

__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(const bf16* x, bf16* y, int64_t items, int row_vectors) {
  pdl_trigger();
  pdl_wait();
  for (int64_t i = first_item(); i < items; i += item_stride()) {
    const int64_t row = i / row_vectors;
    const int column = static_cast<int>(i - row * row_vectors);
    const bf16* gate = x + (2 * row * row_vectors + column) * 8;
    float g[8], u[8];
    unpack_8(load_16(gate), g);
    unpack_8(load_16(gate + 8 * row_vectors), u);
#pragma unroll
    for (int j = 0; j < 8; ++j) g[j] = g[j] * sigmoid(g[j]) * u[j];
    store_16(y + 8 * i, pack_8(g));
  }
}

template <Unary kActivation>
__global__ void __launch_bounds__(kThreads)
    bias_activation_kernel(const bf16* x, const bf16* __restrict__ bias, bf16* y, int64_t items,
                           int row_vectors) {
  pdl_trigger();
  pdl_wait();
  for (int64_t i = first_item(); i < items; i += item_stride()) {
    float t[8];
    unpack_8(load_16(x + 8 * i), t);
    if (bias != nullptr) {
      float b[8];
      unpack_8(load_16(bias + 8 * (i % row_vectors)), b);
#pragma unroll
      for (int j = 0; j < 8; ++j) t[j] += b[j];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) t[j] = activate<kActivation>(t[j]);
    store_16(y + 8 * i, pack_8(t));
  }
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(const bf16* a, const bf16* b, bf16* y,
               int64_t count) {
  pdl_trigger();
  pdl_wait();
  const int64_t vectors = count / 8;
  for (int64_t i = first_item(); i < vectors; i += item_stride()) {
    float s[8], t[8];
    unpack_8(load_16(a + 8 * i), s);
    unpack_8(load_16(b + 8 * i), t);
#pragma unroll
    for (int j = 0; j < 8; ++j) s[j] += t[j];
    store_16(y + 8 * i, pack_8(s));
  }
  const int64_t i = 8 * vectors + first_item();
  if (i < count) y[i] = __float2bfloat16_rn(__bfloat162float(a[i]) + __bfloat162float(b[i]));
}

// Two reads of 16 bytes, one write (or the reverse): eight values at a time.
__global__ void __launch_bounds__(kThreads)
    to_float_kernel(const bf16* x, float* y, int64_t count) {
  pdl_trigger();
  pdl_wait();
  const int64_t vectors = count / 8;
  for (int64_t i = first_item(); i < vectors; i += item_stride()) {
    float t[8];
    unpack_8(load_16(x + 8 * i), t);
    float4* target = reinterpret_cast<float4*>(y + 8 * i);
    target[0] = make_float4(t[0], t[1], t[2], t[3]);
    target[1] = make_float4(t[4], t[5], t[6], t[7]);
  }
  const int64_t i = 8 * vectors + first_item();
  if (i < count) y[i] = __bfloat162float(x[i]);
}

__global__ void __launch_bounds__(kThreads)
    to_bf16_kernel(const float* x, bf16* y, int64_t count) {
  pdl_trigger();
  pdl_wait();
  const int64_t vectors = count / 8;
  for (int64_t i = first_item(); i < vectors; i += item_stride()) {
    const float4* source = reinterpret_cast<const float4*>(x + 8 * i);
    const float4 a = source[0], b = source[1];
    store_16(y + 8 * i, make_uint4(pack_2(a.x, a.y), pack_2(a.z, a.w), pack_2(b.x, b.y),
                                   pack_2(b.z, b.w)));
  }
  const int64_t i = 8 * vectors + first_item();
  if (i < count) y[i] = __float2bfloat16_rn(x[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* x, T value, int64_t count) {
  pdl_trigger();
  pdl_wait();
  for (int64_t i = first_item(); i < count; i += item_stride()) x[i] = value;
}

template <class T>
void fill_with(const Tensor& x, T value) {
  launch(x.context(), fill_kernel<T>, blocks_for(x.context(), x.numel()), dim3(kThreads), 0,
         x.ptr<T>(), value, x.numel());
}

__global__ void __launch_bounds__(kThreads)
    normalize_kernel(const uint8_t* patches, const float* __restrict__ mean,
                     const float* __restrict__ std, bf16* y, int width) {
  pdl_trigger();
  pdl_wait();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  // Rows need not start on a multiple of 16 bytes: four values at a time where they can.
  const int vectors = width % 4 == 0 ? width / 4 : 0;
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    const uchar4 p = *reinterpret_cast<const uchar4*>(patches + row + 4 * i);
    const float4 m = *reinterpret_cast<const float4*>(mean + 4 * i);
    const float4 s = *reinterpret_cast<const float4*>(std + 4 * i);
    const uint32_t low = pack_2((p.x / 255.f - m.x) / s.x, (p.y / 255.f - m.y) / s.y);
    const uint32_t high = pack_2((p.z / 255.f - m.z) / s.z, (p.w / 255.f - m.w) / s.w);
    *reinterpret_cast<uint2*>(y + row + 4 * i) = make_uint2(low, high);
  }
  for (int i = 4 * vectors + threadIdx.x; i < width; i += kThreads) {
    y[row + i] = __float2bfloat16_rn((patches[row + i] / 255.f - mean[i]) / std[i]);
  }
}

}  // namespace

Tensor swiglu(const Tensor& x) {
  expect(x, "x", DType::kBF16, {-1, -1});
  if (x.size(1) == 0 || x.size(1) % 16 != 0) {
    fail("x: rows of " + std::to_string(x.size(1)) + " values; expected a multiple of 16");
  }
  const int row_vectors = static_cast<int>(x.size(1) / 16);
  Tensor y = x.context().empty({x.size(0), x.size(1) / 2}, DType::kBF16);
  const int64_t items = x.size(0) * row_vectors;
  launch(x.context(), swiglu_kernel, blocks_for(x.context(), items), dim3(kThreads), 0,
         x.ptr<bf16>(), y.ptr<bf16>(), items, row_vectors);
  return y;
}

Unary unary_named(const std::string& name) {
  if (name.empty()) return Unary::kNone;
  if (name == "gelu") return Unary::kGelu;
  if (name == "quick_gelu") return Unary::kQuickGelu;
  fail("activation: '" + name + "' is not '', 'gelu' or 'quick_gelu'");
}

Tensor bias_activation(const Tensor& x, const Tensor& bias, Unary activation, bool in_place) {
  expect(x, "x", DType::kBF16, {-1, -1});
  if (x.size(1) == 0 || x.size(1) % 8 != 0) {
    fail("x: rows of " + std::to_string(x.size(1)) + " values; expected a multiple of 8");
  }
  if (bias.defined()) expect(bias, "bias", DType::kBF16, {x.size(1)}, x);
  Tensor y = in_place ? x : x.context().empty(x.shape(), DType::kBF16);
  const auto kernel = activation == Unary::kGelu        ? bias_activation_kernel<Unary::kGelu>
                      : activation == Unary::kQuickGelu ? bias_activation_kernel<Unary::kQuickGelu>
                                                        : bias_activation_kernel<Unary::kNone>;
  const int64_t items = x.numel() / 8;
  launch(x.context(), kernel, blocks_for(x.context(), items), dim3(kThreads), 0, x.ptr<bf16>(),
         bias.defined() ? bias.ptr<bf16>() : nullptr, y.ptr<bf16>(), items,
         static_cast<int>(x.size(1) / 8));
  return y;
}

Tensor add(const Tensor& a, const Tensor& b) {
  const Tensor flat = a.view({-1});
  expect(flat, "a", DType::kBF16, {-1});
  if (a.shape() != b.shape()) fail("b: expected the shape of " + a.describe() + ", found " + b.describe());
  expect(b.view({-1}), "b", DType::kBF16, {-1}, a);
  Tensor y = a.context().empty(a.shape(), DType::kBF16);
  launch(a.context(), add_kernel, blocks_for(a.context(), (a.numel() + 7) / 8), dim3(kThreads), 0,
         a.ptr<bf16>(), b.ptr<bf16>(), y.ptr<bf16>(), a.numel());
  return y;
}

Tensor cast(const Tensor& x, DType dtype) {
  const Tensor flat = x.view({-1});
  if (x.dtype() == dtype) return x;
  Tensor y = x.context().empty(x.shape(), dtype);
  const dim3 blocks = blocks_for(x.context(), (x.numel() + 7) / 8);
  if (dtype == DType::kF32) {
    expect(flat, "x", DType::kBF16, {-1});
    launch(x.context(), to_float_kernel, blocks, dim3(kThreads), 0, x.ptr<bf16>(), y.ptr<float>(),
           x.numel());
  } else if (dtype == DType::kBF16) {
    expect(flat, "x", DType::kF32, {-1});
    launch(x.context(), to_bf16_kernel, blocks, dim3(kThreads), 0, x.ptr<float>(), y.ptr<bf16>(),
           x.numel());
  } else {
    fail(std::string("cast: to ") + name_of(dtype) + "; only bf16 and f32 are known");
  }
  return y;
}

void fill(const Tensor& x, double value) {
  if (!x.is_contiguous()) fail("x: must be contiguous");
  switch (x.dtype()) {
    case DType::kBF16:
      return fill_with(x, __float2bfloat16_rn(static_cast<float>(value)));
    case DType::kF32:
      return fill_with(x, static_cast<float>(value));
    case DType::kI32:
      return fill_with(x, static_cast<int32_t>(value));
    case DType::kI64:
      return fill_with(x, static_cast<int64_t>(value));
    case DType::kU8:
    case DType::kBool:
      return fill_with(x, static_cast<uint8_t>(value));
    case DType::kI8:
      return fill_with(x, static_cast<int8_t>(value));
    default:
      fail(std::string("fill: ") + name_of(x.dtype()) + " is not supported");
  }
}

Tensor normalize_patches(const Tensor& patches, const Tensor& mean, const Tensor& std) {
  expect(patches, "patches", DType::kU8, {-1, -1});
  expect(mean, "mean", DType::kF32, {patches.size(1)}, patches);
  expect(std, "std", DType::kF32, {patches.size(1)}, patches);
  Tensor y = patches.context().empty(patches.shape(), DType::kBF16);
  launch(patches.context(), normalize_kernel, dim3(static_cast<unsigned>(patches.size(0))),
         dim3(kThreads), 0, patches.ptr<uint8_t>(), mean.ptr<float>(), std.ptr<float>(),
         y.ptr<bf16>(), static_cast<int>(patches.size(1)));
  return y;
}

}  // namespace ernie
