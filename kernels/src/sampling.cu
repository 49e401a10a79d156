// Sampling: one launch. A row is the work of a cluster of blocks that keeps it in its shared memory;
// clusters take one row after another, the next one's logits on their way meanwhile. Steps that a row
// does not ask for are passed over.
#include <algorithm>
#include <map>

#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/sampling.h"
#include "ernie/sampling_choice.cuh"

namespace ernie {

namespace {

constexpr int kRun = 4 * kSamplingVectors;  // values of a thread of a cluster
constexpr int kMaxVectors = 255;  // of a thread where one block does a row

#if defined(ERNIE_HOPPER)
__device__ __forceinline__ void copy_bulk(const void* to, const void* from, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
#endif

template <int kCluster>
__global__ void __launch_bounds__(kSamplingThreads, kCluster > 1 ? 2 : 1)
    sample_kernel(const __grid_constant__ SamplingArguments a) {
  const int padded = (a.block_values + kRun - 1) / kRun * kRun;
  const int buffer_values = kCluster > 1 ? padded + kRun : a.vectors * 4 * kSamplingThreads;
  extern __shared__ __align__(128) float buffers[];  // two shares of rows
  __shared__ RowShared<kCluster> shared;
  __shared__ __align__(16) SamplingRow rows[2];
  [[maybe_unused]] __shared__ uint64_t arrived[2];  // mbarriers
  Row<kCluster> values(shared, a.vectors, a.block_values, kCluster > 1 ? padded : buffer_values);
  const int num_workers = static_cast<int>(gridDim.x) / kCluster;
  const int worker = static_cast<int>(blockIdx.x) / kCluster;
  const int length = max(0, min(a.block_values, a.num_valid - values.first_id()));
  const auto order = [&](int index, int slot) {  // a row's share and its settings
#if defined(ERNIE_HOPPER)
    if (threadIdx.x != 0 || index >= a.num_rows) return;
    const uint32_t barrier = shared_address(&arrived[slot]);
    const uint32_t bytes = static_cast<uint32_t>((length + 3) / 4 * 16);
    mbarrier_arrive_expect(barrier, bytes + sizeof(SamplingRow));
    copy_bulk(&rows[slot], a.rows + index, sizeof(SamplingRow), barrier);
    const float* logits = static_cast<const float*>(a.logits) + index * a.logits_stride;
    float* buffer = buffers + slot * buffer_values;
    if (bytes > 0) copy_bulk(buffer, logits + values.first_id(), bytes, barrier);
#endif
  };
#if defined(ERNIE_HOPPER)
  if (kCluster > 1) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; ++i) {
        mbarrier_init(shared_address(&arrived[i]), 1);
        mbarrier_init(shared_address(&shared.messages_arrived[i]), 1);
      }
      mbarrier_init(shared_address(&shared.entries_arrived), 1);
      mbarrier_fence_init();
    }
    for (int i = length + static_cast<int>(threadIdx.x); i < buffer_values; i += kSamplingThreads) {
      buffers[i] = buffers[buffer_values + i] = -INFINITY;
    }
    fence_proxy_async();
    __syncthreads();
  }
#endif
  values.arrive();
  pdl_trigger();
  pdl_wait();
  if (a.by_copies) {
    order(worker, 0);
    order(worker + num_workers, 1);
  }
  int step = 0;
  for (int index = worker; index < a.num_rows; index += num_workers, ++step) {
    if (step % 32 == 0 && threadIdx.x >= kSamplingThreads - 32) {
      const int ahead = index + static_cast<int>(threadIdx.x % 32) * num_workers;
      if (ahead < a.num_rows) {
        const SamplingRow& row = a.rows[ahead];
        shared.random[step / 32 % 2][threadIdx.x % 32] =
            philox_raw(row.key[0], row.key[1], static_cast<uint64_t>(row.position));
      }
    }
    const int slot = step % 2;
    values.set_values(kCluster > 1 ? buffers + slot * buffer_values
                                   : a.scratch + static_cast<int64_t>(blockIdx.x) * buffer_values);
    int bias_begin = 0, bias_end = 0;
    if (a.bias_offsets != nullptr) {
      bias_begin = a.bias_offsets[index];
      bias_end = a.bias_offsets[index + 1];
    }
    if (a.by_copies) {
#if defined(ERNIE_HOPPER)
      mbarrier_wait(shared_address(&arrived[slot]), step / 2 % 2);
      __syncwarp();
      // The last vector may bring ids beyond the valid ones.
      const int tail = length - values.run_begin();
      if (length % 4 != 0 && tail > 0 && tail < values.run_length()) {
        for (int i = length; i % 4 != 0; ++i) values[i] = -INFINITY;
        fence_proxy_async();
      }
#endif
    } else {
      if (threadIdx.x == 0) rows[slot] = a.rows[index];
      load(values, a, index, buffer_values);
    }
    const SamplingRow& row = rows[slot];
    float highest = -INFINITY;
    values.each([&](int, float x) { highest = max_or_nan(highest, x); });
    const uint64_t packed = pack_highest(highest, highest);
    if (step == 0) values.wait();
    values.send(packed, 0);
    const Message* received = values.receive();
    if (step % 32 == 0) __syncthreads();  // the random numbers
    // All have come here, hence all have left the row before, whose place is free now.
    if (a.by_copies && step > 0) order(index + num_workers, slot ^ 1);
    if (row.position < 0) {
      if (values.rank() == 0 && threadIdx.x == 0) {
        write_result(result_of(a, row, index), 0, SamplingStatus::kOk, 0.f, 0);
      }
      continue;
    }
    sample_row(values, a, row, index, shared.random[step / 32 % 2][step % 32], received, highest,
               bias_begin, bias_end);
  }
  if (step == 0) values.wait();
}

size_t buffer_bytes(int block_values) {
  return 2 * sizeof(float) * static_cast<size_t>((block_values + kRun - 1) / kRun * kRun + kRun);
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
                          share_of(kSamplingCluster) <= kSamplingThreads * kRun;
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
    const size_t bytes = buffer_bytes(a.block_values);
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
