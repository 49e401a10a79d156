// Moving rows: gather, replace, pair, concatenate, transpose.
#include <algorithm>

#include "ernie/check.h"
#include "ernie/elementwise.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"

namespace ernie {

namespace {

constexpr int kThreads = 128;
constexpr unsigned kMaxBlocks = 1u << 20;

// The widest unit that divides every row's bytes and both addresses.
int unit_of(size_t row_bytes, const void* a, const void* b) {
  const uintptr_t all = row_bytes | reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  for (const int unit : {16, 8, 4, 2}) {
    if (all % unit == 0) return unit;
  }
  return 1;
}

// Where row i of the output comes from; negative or too large means nowhere.
struct RowIndex {
  const void* rows;
  const int32_t* second;  // with it, odd output rows are second[i / 2], even ones rows[i / 2]
  const int32_t* latest;  // with it, an index -1 - s stands for latest[s]
  int64_t num_latest;
  bool wide;  // rows are int64

  __device__ int64_t operator()(int64_t i) const {
    if (second != nullptr) {
      return i % 2 ? second[i / 2] : static_cast<const int32_t*>(rows)[i / 2];
    }
    int64_t row = wide ? static_cast<const int64_t*>(rows)[i] : static_cast<const int32_t*>(rows)[i];
    if (row < 0 && latest != nullptr && -1 - row < num_latest) row = latest[-1 - row];
    return row;
  }
};

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const Unit* x, RowIndex index, Unit* y, int64_t count,
                  int64_t num_rows, int row_units) {
  pdl_trigger();
  pdl_wait();
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int64_t row = index(i);
    const bool is_inside = row >= 0 && row < num_rows;
    for (int c = threadIdx.x; c < row_units; c += kThreads) {
      y[i * row_units + c] = is_inside ? x[row * row_units + c] : Unit{};
    }
  }
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const Unit* values, RowIndex index, Unit* y,
                   int64_t count, int64_t num_rows, int row_units) {
  pdl_trigger();
  pdl_wait();
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int64_t row = index(i);
    if (row < 0 || row >= num_rows) continue;
    for (int c = threadIdx.x; c < row_units; c += kThreads) {
      y[row * row_units + c] = values[i * row_units + c];
    }
  }
}

// Calls f(Unit{}) with the type of `unit` bytes.
template <class F>
void with_unit(int unit, const F& f) {
  switch (unit) {
    case 16:
      return f(uint4{});
    case 8:
      return f(uint2{});
    case 4:
      return f(uint32_t{});
    case 2:
      return f(uint16_t{});
    default:
      return f(uint8_t{});
  }
}

size_t row_bytes_of(const Tensor& x) {
  return x.size(0) == 0 ? 0 : x.nbytes() / static_cast<size_t>(x.size(0));
}

void check_matrix(const Tensor& x, const char* name) {
  if (!x.defined() || x.dim() < 1 || !x.is_contiguous()) {
    fail(std::string(name) + ": expected a contiguous tensor with rows, found " + x.describe());
  }
}

void check_rows(const Tensor& rows, const char* name) {
  if (!rows.defined() || rows.dim() != 1 || !rows.is_contiguous() ||
      (rows.dtype() != DType::kI32 && rows.dtype() != DType::kI64)) {
    fail(std::string(name) + ": expected contiguous i32 or i64 [*], found " + rows.describe());
  }
}

Tensor gather(const Tensor& x, const RowIndex& index, std::vector<int64_t> shape, int64_t count) {
  Tensor y = x.context().empty(std::move(shape), x.dtype());
  const size_t row_bytes = row_bytes_of(x);
  if (y.numel() == 0) return y;
  if (row_bytes == 0) fail("x: has no rows to gather from");
  const int unit = unit_of(row_bytes, x.data(), y.data());
  with_unit(unit, [&](auto zero) {
    using Unit = decltype(zero);
    launch(x.context(), gather_kernel<Unit>,
           dim3(static_cast<unsigned>(std::min<int64_t>(count, kMaxBlocks))), dim3(kThreads), 0,
           x.ptr<Unit>(), index, y.ptr<Unit>(), count, x.size(0),
           static_cast<int>(row_bytes / unit));
  });
  return y;
}

constexpr int kTile = 32;
constexpr int kTileRows = 8;

template <class T>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose_kernel(const T* x, T* y, int rows, int columns) {
  __shared__ T tile[kTile][kTile + 1];
  pdl_trigger();
  pdl_wait();
  const int64_t matrix = static_cast<int64_t>(blockIdx.z) * rows * columns;
  const int column = blockIdx.x * kTile + threadIdx.x;
  for (int r = threadIdx.y; r < kTile; r += kTileRows) {
    const int row = blockIdx.y * kTile + r;
    if (row < rows && column < columns) {
      tile[r][threadIdx.x] = x[matrix + static_cast<int64_t>(row) * columns + column];
    }
  }
  __syncthreads();
  const int row = blockIdx.y * kTile + threadIdx.x;
  for (int c = threadIdx.y; c < kTile; c += kTileRows) {
    const int target = blockIdx.x * kTile + c;
    if (target < columns && row < rows) {
      y[matrix + static_cast<int64_t>(target) * rows + row] = tile[threadIdx.x][c];
    }
  }
}

}  // namespace

Tensor gather_rows(const Tensor& x, const Tensor& rows) {
  check_matrix(x, "x");
  check_rows(rows, "rows");
  std::vector<int64_t> shape = x.shape();
  shape[0] = rows.size(0);
  const RowIndex index{rows.data(), nullptr, nullptr, 0, rows.dtype() == DType::kI64};
  return gather(x, index, std::move(shape), rows.size(0));
}

Tensor embedding(const Tensor& table, const Tensor& ids, const Tensor& latest) {
  expect(table, "table", DType::kBF16, {-1, -1});
  expect(ids, "ids", DType::kI32, {-1}, table);
  if (latest.defined()) expect(latest, "latest", DType::kI32, {-1}, table);
  const RowIndex index{ids.data(), nullptr, latest.defined() ? latest.ptr<int32_t>() : nullptr,
                       latest.defined() ? latest.numel() : 0, false};
  return gather(table, index, {ids.size(0), table.size(1)}, ids.size(0));
}

Tensor pair_rows(const Tensor& x, const Tensor& first, const Tensor& second) {
  check_matrix(x, "x");
  if (x.dim() != 2) fail("x: expected [*, *], found " + x.describe());
  expect(first, "first", DType::kI32, {-1}, x);
  expect(second, "second", DType::kI32, {first.size(0)}, x);
  const RowIndex index{first.data(), second.ptr<int32_t>(), nullptr, 0, false};
  return gather(x, index, {first.size(0), 2 * x.size(1)}, 2 * first.size(0));
}

Tensor replace_rows(const Tensor& x, const Tensor& rows, const Tensor& values) {
  check_matrix(x, "x");
  check_matrix(values, "values");
  check_rows(rows, "rows");
  std::vector<int64_t> wanted = x.shape();
  wanted[0] = rows.size(0);
  if (values.dtype() != x.dtype() || values.shape() != wanted) {
    fail("values: " + values.describe() + " does not fit " + std::to_string(rows.size(0)) +
         " rows of " + x.describe());
  }
  Tensor y = x.context().empty(x.shape(), x.dtype());
  copy(y, x);
  if (values.numel() == 0 || x.numel() == 0) return y;
  const size_t row_bytes = row_bytes_of(x);
  const int unit = unit_of(row_bytes, values.data(), y.data());
  const RowIndex index{rows.data(), nullptr, nullptr, 0, rows.dtype() == DType::kI64};
  with_unit(unit, [&](auto zero) {
    using Unit = decltype(zero);
    launch(x.context(), scatter_kernel<Unit>,
           dim3(static_cast<unsigned>(std::min<int64_t>(rows.size(0), kMaxBlocks))), dim3(kThreads),
           0, values.ptr<Unit>(), index, y.ptr<Unit>(), rows.size(0), x.size(0),
           static_cast<int>(row_bytes / unit));
  });
  return y;
}

Tensor concat_rows(const std::vector<Tensor>& parts) {
  if (parts.empty()) fail("concat_rows: no parts");
  std::vector<int64_t> shape = parts[0].shape();
  if (shape.empty()) fail("parts[0]: a scalar has no rows");
  shape[0] = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string name = "parts[" + std::to_string(i) + "]";
    check_matrix(parts[i], name.c_str());
    if (parts[i].dtype() != parts[0].dtype() || parts[i].dim() != parts[0].dim() ||
        !std::equal(shape.begin() + 1, shape.end(), parts[i].shape().begin() + 1)) {
      fail(name + ": " + parts[i].describe() + " does not continue " + parts[0].describe());
    }
    shape[0] += parts[i].size(0);
  }
  Tensor y = parts[0].context().empty(shape, parts[0].dtype());
  int64_t row = 0;
  for (const Tensor& part : parts) {
    copy(y.slice(row, row + part.size(0)), part);
    row += part.size(0);
  }
  return y;
}

void copy(const Tensor& target, const Tensor& source) {
  if (!target.defined() || !source.defined() || target.dtype() != source.dtype() ||
      target.numel() != source.numel() || !target.is_contiguous() || !source.is_contiguous()) {
    fail("copy: " + source.describe() + " into " + target.describe() +
         "; expected contiguous tensors of one dtype and size");
  }
  if (target.nbytes() == 0) return;
  ERNIE_CUDA(cudaMemcpyAsync(target.data(), source.data(), target.nbytes(),
                             cudaMemcpyDefault, target.context().stream()));
}

Tensor transpose(const Tensor& x) {
  check_matrix(x, "x");
  if (x.dim() < 2) fail("x: expected at least two axes, found " + x.describe());
  std::vector<int64_t> shape = x.shape();
  std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
  Tensor y = x.context().empty(shape, x.dtype());
  if (x.numel() == 0) return y;
  const int64_t rows = x.size(-2), columns = x.size(-1);
  const int64_t matrices = x.numel() / (rows * columns);
  const dim3 grid(static_cast<unsigned>((columns + kTile - 1) / kTile),
                  static_cast<unsigned>((rows + kTile - 1) / kTile),
                  static_cast<unsigned>(matrices));
  if (grid.y > 65535 || matrices > 65535) {
    fail("x: " + x.describe() + " has more rows or matrices than one transposition takes");
  }
  const dim3 block(kTile, kTileRows);
  if (size_of(x.dtype()) == 2) {
    launch(x.context(), transpose_kernel<uint16_t>, grid, block, 0, x.ptr<uint16_t>(),
           y.ptr<uint16_t>(), static_cast<int>(rows), static_cast<int>(columns));
  } else if (size_of(x.dtype()) == 4) {
    launch(x.context(), transpose_kernel<uint32_t>, grid, block, 0, x.ptr<uint32_t>(),
           y.ptr<uint32_t>(), static_cast<int>(rows), static_cast<int>(columns));
  } else {
    fail(std::string("x: ") + name_of(x.dtype()) + " elements are not transposed");
  }
  return y;
}

}  // namespace ernie
