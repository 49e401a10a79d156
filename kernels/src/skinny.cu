#include "ernie/skinny.h"

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/weight_stream.cuh"

namespace ernie {
namespace {

void check_extent(int64_t value, const char* name, int64_t limit) {
  if (value % 8 != 0 || value < 8 || value > limit) {
    fail(std::string(name) + " is " + std::to_string(value) + ", expected a multiple of 8 from 8 to " +
         std::to_string(limit));
  }
}

template <bool kGated, int kSplit, int kTiles>
void run(Context& context, StreamJob& job) {
  using Shape = StreamShape<kSplit, kTiles>;
  const int weight_rows = kGated ? 2 * job.rows : job.rows;
  job.tiles = (weight_rows + Shape::kRows - 1) / Shape::kRows;
  const size_t shared = Shape::shared_bytes(job.tokens, 0);
  const int fitting = static_cast<int>((context.max_shared_bytes() + 1024) / (shared + 1024));
  const int blocks = context.sm_count() * std::clamp(fitting, 1, 2);
  launch(context, weight_stream<kGated, false, kSplit, kTiles>, std::min(job.tiles, blocks),
         kStreamThreads, shared, job);
}

template <bool kGated>
void run_any(Context& context, StreamJob& job, int tile_rows = 0) {
  if (tile_rows == 0) {
    tile_rows = dense_tile_rows(job.tokens, kGated ? 2 * job.rows : job.rows, context.sm_count(),
                                context.max_shared_bytes());
  }
  if (job.tokens <= 8) {
    if (tile_rows == 16) return run<kGated, 8, 1>(context, job);
    if (tile_rows == 32) return run<kGated, 4, 1>(context, job);
  } else if (job.tokens <= 32) {
    if (tile_rows == 32) return run<kGated, 4, 4>(context, job);
    if (tile_rows == 64) return run<kGated, 2, 4>(context, job);
  } else {
    if (tile_rows == 64) return run<kGated, 2, 8>(context, job);
    if (tile_rows == 128) return run<kGated, 1, 8>(context, job);
  }
  fail("there is no tile of " + std::to_string(tile_rows) + " rows for " +
       std::to_string(job.tokens) + " tokens");
}

StreamJob make_job(const Tensor& x, const Tensor& w) {
  expect(x, "x", DType::kBF16, {-1, -1});
  expect(w, "w", DType::kBF16, {-1, x.size(1)});
  check_extent(x.size(1), "x.shape[1]", 1 << 20);
  check_extent(w.size(0), "w.shape[0]", 1 << 24);
  if (x.size(0) < 1 || x.size(0) > kSkinnyRows) {
    fail("x has " + std::to_string(x.size(0)) + " rows, expected 1 to " +
         std::to_string(kSkinnyRows));
  }
  if (w.numel() > 0xffffffffll) {
    fail("w has " + std::to_string(w.numel()) + " elements, expected at most 4294967295");
  }
  StreamJob job{};
  job.x = x.ptr<bf16>();
  job.w = w.ptr<bf16>();
  job.tokens = static_cast<int>(x.size(0));
  job.depth = static_cast<int>(x.size(1));
  return job;
}

}  // namespace

Tensor skinny_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
                     DType out_dtype, int tile_rows) {
  StreamJob job = make_job(x, w);
  job.rows = static_cast<int>(w.size(0));
  if (bias.defined()) {
    expect(bias, "bias", DType::kBF16, {w.size(0)});
    job.bias = bias.ptr<bf16>();
  }
  if (residual.defined()) {
    expect(residual, "residual", DType::kBF16, {x.size(0), w.size(0)});
    job.residual = residual.ptr<bf16>();
  }
  if (out_dtype != DType::kBF16 && out_dtype != DType::kF32) {
    fail(std::string("out_dtype is ") + name_of(out_dtype) + ", expected bf16 or f32");
  }
  job.float_out = out_dtype == DType::kF32;
  Context& context = x.context();
  Tensor out = context.empty({x.size(0), w.size(0)}, out_dtype);
  job.out = out.data();
  run_any<false>(context, job, tile_rows);
  return out;
}

Tensor skinny_linear_swiglu(const Tensor& x, const Tensor& w) {
  StreamJob job = make_job(x, w);
  check_extent(w.size(0) / 2, "w.shape[0] / 2", 1 << 23);
  job.rows = static_cast<int>(w.size(0) / 2);
  Context& context = x.context();
  Tensor out = context.empty({x.size(0), job.rows}, DType::kBF16);
  job.out = out.data();
  run_any<true>(context, job);
  return out;
}

}  // namespace ernie
