#include "ernie/tensor_map.h"

#include <cuda_runtime.h>

#include <string>

#include "ernie/check.h"

namespace ernie {
namespace {

constexpr int kBoxColumns = 64;  // 128 bytes: one row of the swizzle

// The driver's function, found through the runtime so that nothing links with libcuda.
decltype(&cuTensorMapEncodeTiled) encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  ERNIE_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess) {
    throw CudaError("the CUDA driver has no cuTensorMapEncodeTiled (12.0 or newer is needed)");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

CUtensorMap matrix_map(const void* data, int64_t rows, int64_t columns, int box_rows) {
  static const auto encode = encode_function();
  CUtensorMap map;
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(columns) * 2};  // bytes
  const cuuint32_t box[2] = {kBoxColumns, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult code = encode(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), extents, strides, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) {
    throw CudaError("cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(code)) +
                    " for a matrix [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
  }
  return map;
}

}  // namespace ernie
