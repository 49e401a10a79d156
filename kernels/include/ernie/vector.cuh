// Eight bf16 at a time: 16-byte loads and stores, and their float32 values.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace ernie {

using bf16 = __nv_bfloat16;

// A plain 16-byte load. Volatile asm keeps it behind pdl_wait().
__device__ __forceinline__ uint4 load_16(const void* pointer) {
  return *static_cast<const uint4*>(pointer);
}

// For what is read once, weights above all: not kept in the L1.
__device__ __forceinline__ uint4 load_16_streaming(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}

__device__ __forceinline__ void store_16(void* pointer, uint4 value) {
  *static_cast<uint4*>(pointer) = value;
}

// bf16 is the upper half of a float32.
__device__ __forceinline__ float low_float(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_float(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ void unpack_8(const uint4& v, float (&f)[8]) {
  f[0] = low_float(v.x), f[1] = high_float(v.x);
  f[2] = low_float(v.y), f[3] = high_float(v.y);
  f[4] = low_float(v.z), f[5] = high_float(v.z);
  f[6] = low_float(v.w), f[7] = high_float(v.w);
}

// Round to nearest even.
__device__ __forceinline__ uint32_t pack_2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ uint4 pack_8(const float (&f)[8]) {
  return make_uint4(pack_2(f[0], f[1]), pack_2(f[2], f[3]), pack_2(f[4], f[5]),
                    pack_2(f[6], f[7]));
}

// The float32 that `value` is after a trip through bf16.
__device__ __forceinline__ float round_to_bf16(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

}  // namespace ernie
