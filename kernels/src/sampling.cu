// Sampling: one launch (ernie/sampling_rows.cuh is its work).
#include <algorithm>
#include <map>

#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/sampling_rows.cuh"

namespace ernie {

namespace {

constexpr int kMaxVectors = 255;  // of a thread where one block does a row

template <int kCluster>
__global__ void __launch_bounds__(kSamplingThreads, kCluster > 1 ? 2 : 1)
    sample_kernel(const __grid_constant__ SamplingArguments a) {
  extern __shared__ __align__(128) float buffers[];  // two shares of rows
  __shared__ RowShared<kCluster> shared;
  __shared__ __align__(16) SamplingRow rows[2];
  __shared__ uint64_t arrived[2];  // mbarriers
  sample_rows(a, buffers, shared, rows, arrived);
}

// How many clusters the device runs at a time, by the bytes of their blocks' buffers.
class Residency {
 public:
  explicit Residency(Context& context) : context_(context) {}

  unsigned clusters(size_t bytes) {
    unsigned& known = known_[bytes];
    if (known > 0) return known;
    const auto kernel = sample_kernel<kSamplingCluster>;
    context_.allow_shared_bytes(reinterpret_cast<const void*>(kernel), bytes);
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = kSamplingCluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(kSamplingCluster);
    config.blockDim = dim3(kSamplingThreads);
    config.dynamicSmemBytes = bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int active = 0;
    ERNIE_CUDA(cudaOccupancyMaxActiveClusters(&active, kernel, &config));
    known = static_cast<unsigned>(std::max(active, 1));
    return known;
  }

 private:
  Context& context_;
  std::map<size_t, unsigned> known_;
};

void check_tables(const SamplingTables& t, const Tensor& logits) {
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const int64_t words = (vocabulary + 31) / 32;
  if (t.mask.defined()) expect(t.mask, "mask", DType::kI32, {-1, words}, logits);
  if (t.bias_offsets.defined() || t.bias_ids.defined() || t.bias_values.defined()) {
    expect(t.bias_offsets, "bias_offsets", DType::kI32, {rows + 1}, logits);
    expect(t.bias_ids, "bias_ids", DType::kI32, {-1}, logits);
    expect(t.bias_values, "bias_values", DType::kF32, {t.bias_ids.size(0)}, logits);
  }
  int64_t seats = -1;
  if (t.counts.defined()) {
    expect(t.counts, "counts", DType::kU16, {-1, vocabulary}, logits);
    seats = t.counts.size(0);
  }
  if (t.prompt_seen.defined()) {
    if (!t.counts.defined()) fail("prompt_seen: only together with counts");
    expect(t.prompt_seen, "prompt_seen", DType::kI32, {seats, words}, logits);
  }
  if (t.latest.defined()) expect(t.latest, "latest", DType::kI32, {seats}, logits);
}

template <class T>
T* pointer_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.ptr<T>() : nullptr;
}

}  // namespace

Tensor sample(const Tensor& logits, const Tensor& rows, const SamplingTables& tables,
              int64_t num_valid, bool spread, const Tensor& places) {
  const bool is_bf16 = logits.defined() && logits.dtype() == DType::kBF16;
  expect(logits, "logits", is_bf16 ? DType::kBF16 : DType::kF32, {-1, -1});
  const int64_t count = logits.size(0), vocabulary = logits.size(1);
  expect(rows, "rows", DType::kU8, {count, static_cast<int64_t>(sizeof(SamplingRow))}, logits);
  if (num_valid < 1 || num_valid > vocabulary) {
    fail("num_valid: " + std::to_string(num_valid) + " is not between 1 and the " +
         std::to_string(vocabulary) + " columns of logits");
  }
  check_tables(tables, logits);
  Context& context = logits.context();
  constexpr int64_t kResultWords = sizeof(SamplingResult) / 4;
  if (places.defined()) expect(places, "results", DType::kI32, {-1, kResultWords}, logits);
  const Tensor results =
      places.defined() ? places : context.empty({count, kResultWords}, DType::kI32);
  if (count == 0) return results;

  SamplingArguments a{};
  a.num_rows = static_cast<int>(count);
  const auto share_of = [num_valid](int64_t blocks) {
    return ((num_valid + blocks - 1) / blocks + 3) / 4 * 4;
  };
  const bool in_cluster = spread && context.capability() / 10 == 9 &&
                          share_of(kSamplingCluster) <= kSamplingThreads * kSamplingRun;
  a.block_values = static_cast<int>(share_of(in_cluster ? kSamplingCluster : 1));
  a.vectors = in_cluster ? kSamplingVectors
                         : (a.block_values / 4 + kSamplingThreads - 1) / kSamplingThreads;
  if (a.vectors > kMaxVectors) {
    fail("logits: a vocabulary of " + std::to_string(num_valid) + " is too large; the limit is " +
         std::to_string(kMaxVectors * kSamplingThreads * 4));
  }
  a.logits = logits.data();
  a.rows = rows.ptr<SamplingRow>();
  a.results = results.ptr<SamplingResult>();
  a.num_places = places.defined() ? static_cast<int>(places.size(0)) : -1;
  a.mask = pointer_or_null<int32_t>(tables.mask);
  a.bias_offsets = pointer_or_null<int32_t>(tables.bias_offsets);
  a.bias_ids = pointer_or_null<int32_t>(tables.bias_ids);
  a.bias_values = pointer_or_null<float>(tables.bias_values);
  a.counts = pointer_or_null<uint16_t>(tables.counts);
  a.prompt_seen = pointer_or_null<int32_t>(tables.prompt_seen);
  a.latest = pointer_or_null<int32_t>(tables.latest);
  a.logits_stride = vocabulary;
  a.num_valid = static_cast<int>(num_valid);
  a.vocabulary = static_cast<int>(vocabulary);
  a.mask_words = static_cast<int>((vocabulary + 31) / 32);
  a.num_masks = tables.mask.defined() ? static_cast<int>(tables.mask.size(0)) : 0;
  a.num_seats = tables.latest.defined()   ? static_cast<int>(tables.latest.size(0))
                : tables.counts.defined() ? static_cast<int>(tables.counts.size(0))
                                          : 0;
  a.logits_are_bf16 = is_bf16;
  if (in_cluster) {
    a.by_copies = !is_bf16 && vocabulary % 4 == 0;
    const size_t bytes = sampling_buffer_bytes(a.block_values);
    const unsigned workers =
        std::min(static_cast<unsigned>(count), context.attachment<Residency>().clusters(bytes));
    launch_clusters(context, kSamplingCluster, sample_kernel<kSamplingCluster>,
                    dim3(workers * kSamplingCluster), dim3(kSamplingThreads), bytes, a);
    return results;
  }
  const unsigned workers = static_cast<unsigned>(std::min(count, int64_t{4} * context.sm_count()));
  const Tensor scratch =
      context.empty({workers, int64_t{kSamplingThreads} * a.vectors * 4}, DType::kF32);
  a.scratch = scratch.ptr<float>();
  launch(context, sample_kernel<1>, dim3(workers), dim3(kSamplingThreads), 0, a);
  return results;
}

}  // namespace ernie
