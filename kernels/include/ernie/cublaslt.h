// cuBLASLt, loaded at run time: its headers and library need not be there when this is built.
#pragma once

#include <cuda_runtime.h>
#include <library_types.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "ernie/context.h"

namespace ernie {

// The part of cublasLt.h that is used here; values are those of versions 12 and 13.
namespace cublaslt {

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;
using Status = int;  // 0 is success

struct Algorithm {
  uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

constexpr int kCompute32F = 68;
constexpr int kTransA = 3, kEpilogue = 7, kBiasPointer = 8;          // of a MatmulDesc
constexpr int kMaxWorkspaceBytes = 1, kMinAlignmentA = 5;             // of a Preference; B, C, D follow
constexpr int32_t kTranspose = 1;
constexpr int32_t kEpilogueBias = 4;

struct Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  size_t (*version)();
  Status (*desc_create)(MatmulDesc*, int compute_type, cudaDataType_t scale_type);
  Status (*desc_destroy)(MatmulDesc);
  Status (*desc_set)(MatmulDesc, int attribute, const void*, size_t);
  Status (*layout_create)(MatrixLayout*, cudaDataType_t, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*layout_destroy)(MatrixLayout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, int attribute, const void*, size_t);
  Status (*heuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c,
                      MatrixLayout d, Preference, int wanted, HeuristicResult*, int* found);
  Status (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout,
                   const void* b, MatrixLayout, const void* beta, const void* c, MatrixLayout,
                   void* d, MatrixLayout, const Algorithm*, void* workspace, size_t, cudaStream_t);
};

}  // namespace cublaslt

// The library's handle and the algorithms chosen so far; a context attachment.
class CublasLt {
 public:
  explicit CublasLt(Context& context);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  bool is_available() const { return handle_ != nullptr; }
  const std::string& missing() const { return missing_; }  // why it is not available
  size_t version() const { return version_; }

  // With tuning, the first call of a kind of product outside of a capture times the library's best
  // few algorithms and keeps the fastest; without, its first proposal is taken.
  void set_tuning(bool on) { is_tuning_ = on; }

  // y = x · wᵀ + bias + residual; bias and residual may be null. x bf16 [T, K], w bf16 [N, K],
  // bias bf16 [N], residual like y; y [T, N] bf16 or f32.
  void multiply(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
                const Tensor& y);

 private:
  // Rows are bucketed: an algorithm serves all row counts of its bucket.
  using Key = std::tuple<int64_t, int64_t, int64_t, DType, bool, bool, uint32_t>;
  struct Product;

  bool load(const std::string& path);
  cublaslt::Algorithm choose(const Product& product);
  cublaslt::Algorithm fastest(const Product& product, cublaslt::HeuristicResult* proposals,
                              int count);

  Context& context_;
  void* library_ = nullptr;
  cublaslt::Functions lt_{};
  cublaslt::Handle handle_ = nullptr;
  size_t version_ = 0;
  std::string missing_;
  bool is_tuning_ = false;
  std::map<Key, cublaslt::Algorithm> chosen_;
  void* workspace_ = nullptr;
};

}  // namespace ernie
