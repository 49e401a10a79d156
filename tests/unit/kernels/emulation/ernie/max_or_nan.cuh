// The instruction of kernels/include/ernie/max_or_nan.cuh on the CPU.
#pragma once

namespace ernie {

inline float max_or_nan(float a, float b) { return a != a || a > b ? a : b; }

}  // namespace ernie
