#include "ernie/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>

#include "ernie/check.h"

namespace ernie {

using cublaslt::Algorithm;
using cublaslt::HeuristicResult;
using cublaslt::Status;

namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // the library's advice for Hopper
constexpr int kProposals = 8;
constexpr int kTimedRuns = 5;

void check(Status status, const char* call) {
  if (status != 0) throw CudaError(std::string(call) + ": cuBLASLt status " + std::to_string(status));
}

// Exact up to 64 rows, then in steps that grow with the size: at most an eighth above.
int64_t bucket_of(int64_t rows) {
  if (rows <= 64) return rows;
  int64_t step = 8;
  while (step * 16 < rows) step *= 2;
  return (rows + step - 1) / step * step;
}

// The largest power of two up to 256 that divides the address.
uint32_t alignment_of(const void* address) {
  const auto value = reinterpret_cast<uintptr_t>(address) | 256u;
  return static_cast<uint32_t>(value & (~value + 1));
}

}  // namespace

// Descriptors of one product. The library is column-major: it computes yᵀ [N, T] = w · xᵀ, where
// the row-major w [N, K] is its K-by-N matrix to be transposed.
struct CublasLt::Product {
  const cublaslt::Functions& lt;
  cublaslt::MatmulDesc desc = nullptr;
  cublaslt::MatrixLayout a = nullptr, b = nullptr, d = nullptr;
  const void* w;
  const void* x;
  const void* c;
  void* y;
  float beta;
  Key key;

  Product(const cublaslt::Functions& functions, const Tensor& x_, const Tensor& w_,
          const Tensor& bias, const Tensor& residual, const Tensor& y_)
      : lt(functions),
        w(w_.data()),
        x(x_.data()),
        c(residual.defined() ? residual.data() : y_.data()),
        y(y_.data()),
        beta(residual.defined() ? 1.f : 0.f) {
    const int64_t rows = x_.size(0), depth = x_.size(1), width = w_.size(0);
    const uint32_t alignment = std::min({alignment_of(w), alignment_of(x), alignment_of(c), alignment_of(y)});
    key = Key(bucket_of(rows), width, depth, y_.dtype(), bias.defined(), residual.defined(), alignment);
    check(lt.desc_create(&desc, cublaslt::kCompute32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    check(lt.desc_set(desc, cublaslt::kTransA, &cublaslt::kTranspose, sizeof(int32_t)),
          "cublasLtMatmulDescSetAttribute");
    if (bias.defined()) {
      const void* pointer = bias.data();
      check(lt.desc_set(desc, cublaslt::kEpilogue, &cublaslt::kEpilogueBias, sizeof(int32_t)),
            "cublasLtMatmulDescSetAttribute");
      check(lt.desc_set(desc, cublaslt::kBiasPointer, &pointer, sizeof pointer),
            "cublasLtMatmulDescSetAttribute");
    }
    const cudaDataType_t out = y_.dtype() == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
    check(lt.layout_create(&a, CUDA_R_16BF, depth, width, depth), "cublasLtMatrixLayoutCreate");
    check(lt.layout_create(&b, CUDA_R_16BF, depth, rows, depth), "cublasLtMatrixLayoutCreate");
    check(lt.layout_create(&d, out, width, rows, width), "cublasLtMatrixLayoutCreate");
  }
  ~Product() {
    if (d != nullptr) lt.layout_destroy(d);
    if (b != nullptr) lt.layout_destroy(b);
    if (a != nullptr) lt.layout_destroy(a);
    if (desc != nullptr) lt.desc_destroy(desc);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  Status run(cublaslt::Handle handle, const Algorithm& algorithm, void* workspace,
             cudaStream_t stream) const {
    const float alpha = 1.f;
    return lt.matmul(handle, desc, &alpha, w, a, x, b, &beta, c, d, y, d, &algorithm, workspace,
                     kWorkspaceBytes, stream);
  }
};

CublasLt::CublasLt(Context& context) : context_(context) {
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (load(name)) break;
    bool found = false;
    for (const std::string& folder : context.library_folders()) {
      found = found || load(folder + "/" + name);
    }
    if (found) break;
  }
  if (library_ == nullptr) {
    missing_ = "libcublasLt.so.13 or .12 was not found by the loader nor in NVIDIA's Python packages";
    return;
  }
  version_ = lt_.version();
  check(lt_.create(&handle_), "cublasLtCreate");
  const cudaError_t code = cudaMalloc(&workspace_, kWorkspaceBytes);
  if (code != cudaSuccess) throw_cuda_error(code, "cudaMalloc");
}

CublasLt::~CublasLt() {
  if (handle_ != nullptr) lt_.destroy(handle_);
  if (workspace_ != nullptr) cudaFree(workspace_);
  // The library stays loaded: unloading it under a running driver is not safe.
}

bool CublasLt::load(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return false;
  bool complete = true;
  const auto resolve = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    complete = complete && function != nullptr;
  };
  resolve(lt_.create, "cublasLtCreate");
  resolve(lt_.destroy, "cublasLtDestroy");
  resolve(lt_.version, "cublasLtGetVersion");
  resolve(lt_.desc_create, "cublasLtMatmulDescCreate");
  resolve(lt_.desc_destroy, "cublasLtMatmulDescDestroy");
  resolve(lt_.desc_set, "cublasLtMatmulDescSetAttribute");
  resolve(lt_.layout_create, "cublasLtMatrixLayoutCreate");
  resolve(lt_.layout_destroy, "cublasLtMatrixLayoutDestroy");
  resolve(lt_.preference_create, "cublasLtMatmulPreferenceCreate");
  resolve(lt_.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  resolve(lt_.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  resolve(lt_.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  resolve(lt_.matmul, "cublasLtMatmul");
  if (!complete) {
    dlclose(library);
    return false;
  }
  library_ = library;
  return true;
}

Algorithm CublasLt::choose(const Product& product) {
  const auto known = chosen_.find(product.key);
  if (known != chosen_.end()) return known->second;
  cublaslt::Preference preference = nullptr;
  check(lt_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const uint32_t alignment = std::get<6>(product.key);
  Status status = lt_.preference_set(preference, cublaslt::kMaxWorkspaceBytes, &kWorkspaceBytes,
                                     sizeof kWorkspaceBytes);
  for (int matrix = 0; matrix < 4 && status == 0; ++matrix) {
    status = lt_.preference_set(preference, cublaslt::kMinAlignmentA + matrix, &alignment,
                                sizeof alignment);
  }
  HeuristicResult proposals[kProposals];
  int found = 0;
  if (status == 0) {
    status = lt_.heuristic(handle_, product.desc, product.a, product.b, product.d, product.d,
                           preference, kProposals, proposals, &found);
  }
  lt_.preference_destroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0) throw CudaError("cublasLtMatmulAlgoGetHeuristic: no algorithm for this product");
  const bool timed = is_tuning_ && !context_.is_capturing() && found > 1;
  const Algorithm best = timed ? fastest(product, proposals, found) : proposals[0].algorithm;
  chosen_.emplace(product.key, best);
  return best;
}

// Each run writes the product's own result, so timing changes nothing; a residual is not y itself.
Algorithm CublasLt::fastest(const Product& product, HeuristicResult* proposals, int count) {
  cudaEvent_t begin, end;
  ERNIE_CUDA(cudaEventCreate(&begin));
  ERNIE_CUDA(cudaEventCreate(&end));
  Algorithm best = proposals[0].algorithm;
  float best_ms = -1.f;
  for (int i = 0; i < count; ++i) {
    const Algorithm& algorithm = proposals[i].algorithm;
    if (proposals[i].state != 0) continue;
    if (product.run(handle_, algorithm, workspace_, context_.stream()) != 0) continue;
    ERNIE_CUDA(cudaEventRecord(begin, context_.stream()));
    for (int run = 0; run < kTimedRuns; ++run) {
      product.run(handle_, algorithm, workspace_, context_.stream());
    }
    ERNIE_CUDA(cudaEventRecord(end, context_.stream()));
    ERNIE_CUDA(cudaEventSynchronize(end));
    float ms = 0.f;
    ERNIE_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (best_ms < 0.f || ms < best_ms) {
      best_ms = ms;
      best = algorithm;
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

void CublasLt::multiply(const Tensor& x, const Tensor& w, const Tensor& bias,
                        const Tensor& residual, const Tensor& y) {
  const Product product(lt_, x, w, bias, residual, y);
  Algorithm algorithm = choose(product);
  Status status = product.run(handle_, algorithm, workspace_, context_.stream());
  if (status != 0) {
    // The bucket's algorithm does not fit this row count: ask for this one.
    chosen_.erase(product.key);
    algorithm = choose(product);
    status = product.run(handle_, algorithm, workspace_, context_.stream());
  }
  check(status, "cublasLtMatmul");
}

}  // namespace ernie
