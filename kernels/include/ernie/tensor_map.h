// Tensor maps: descriptors by which Hopper's copy engine (TMA) reads tiles of a matrix.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace ernie {

// Map of a row-major bf16 matrix [rows, columns]; one copy brings a box of box_rows x 64 columns
// into shared memory, rows of 128 bytes in the 128-byte swizzle (the 16-byte chunk c of row r lies
// at chunk c ^ (r % 8)). What lies outside the matrix arrives as zeros and counts as bytes copied.
// `data` must start at a multiple of 16 bytes, columns be a multiple of 8 and box_rows <= 256.
// The map holds the address only: keep the matrix alive. Throws CudaError.
CUtensorMap matrix_map(const void* data, int64_t rows, int64_t columns, int box_rows);

}  // namespace ernie
