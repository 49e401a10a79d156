// Errors: every CUDA call's failure carries the call's name; bad arguments become ValueError.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace ernie {

// A CUDA call that failed; `kernels.CudaError` (a RuntimeError) in Python.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The device's memory is exhausted; `kernels.OutOfMemoryError` (a CudaError) in Python.
class OutOfMemoryError : public CudaError {
 public:
  using CudaError::CudaError;
};

// Throws CudaError("cudaMalloc: out of memory"); `call` is the source text of the call.
[[noreturn]] void throw_cuda_error(cudaError_t code, const char* call);

// An argument that breaks the function's contract; ValueError in Python.
[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

}  // namespace ernie

#define ERNIE_CUDA(call)                                                          \
  do {                                                                            \
    const cudaError_t ernie_code_ = (call);                                       \
    if (ernie_code_ != cudaSuccess) ::ernie::throw_cuda_error(ernie_code_, #call); \
  } while (0)
