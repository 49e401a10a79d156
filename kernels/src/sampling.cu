// Sampling: one launch. A row is the work of a cluster of blocks that keeps it in its shared memory;
// clusters take one row after another, the next one's logits on their way meanwhile. Steps that a row
// does not ask for are passed over.
#include <algorithm>
#include <map>

#include "ernie/check.h"
#include "ernie/launch.h"
#include "ernie/pdl.cuh"
#include "ernie/sampling.h"
#include "ernie/sampling_steps.cuh"

namespace ernie {

namespace {

constexpr int kRun = 4 * kSamplingVectors;  // values of a thread of a cluster
constexpr int kLikely = 96;       // warps' maxima; about twice as many tokens are likely
constexpr int kMaxVectors = 255;  // of a thread where one block does a row

// What the warps' largest values tell, as far as the row wants to know it.
struct Peaks {
  uint32_t highest;      // the largest key
  int holder;            // the first warp that has it
  float thread_highest;  // of the thread's run
  float least;           // top_k values at least are no smaller; without top_k, kLikely
};

template <int kCluster>
__device__ Peaks peaks_of(Row<kCluster>& values, const SamplingRow& row, const Message* received,
                          uint32_t highest, float thread_highest) {
  Peaks peaks{highest, 0, thread_highest, value_of(kLowestKey)};
  if (row.temperature <= 0.f) {
    constexpr int kSenders = Row<kCluster>::kSenders;
#pragma unroll
    for (int base = (kSenders - 1) / 32 * 32; base >= 0; base -= 32) {
      const int i = base + static_cast<int>(threadIdx.x) % 32;
      const bool has_it = i < kSenders && static_cast<uint32_t>(received[i].amount) == highest;
      const unsigned holders = __ballot_sync(kAll, has_it);
      if (holders != 0) peaks.holder = base + __ffs(static_cast<int>(holders)) - 1;
    }
  } else if (row.top_k > 0) {
    peaks.least = value_of(values.kth_maximum(received, row.top_k));
  } else if (kCluster > 1 && row.top_p < 1.f) {
    peaks.least = value_of(values.kth_maximum(received, kLikely));
  }
  return peaks;
}

// The warp whose values hold the random place looks for it together.
template <int kCluster>
__device__ void draw(Row<kCluster>& values, const SamplingArguments& a, const SamplingRow& row,
                     int64_t index, const Weigher& weigh, const Floor& floor, uint64_t place,
                     uint64_t before, uint64_t mine, const Reported& reported) {
  __syncwarp();
  const uint64_t upto = before + Row<kCluster>::scan_warp(mine);
  const unsigned holders = __ballot_sync(kAll, place < upto);
  const int source = __ffs(static_cast<int>(holders)) - 1, lane = threadIdx.x % 32;
  uint64_t sum = __shfl_sync(kAll, upto - mine, source);
  const int begin = __shfl_sync(kAll, values.run_begin(), source);
  for (int i = begin; i < begin + values.run_length(); i += 32) {  // a value a lane
    const uint32_t id = static_cast<uint32_t>(values.first_id() + i + lane);
    const float x = i + lane < begin + values.run_length() ? values[i + lane] : -INFINITY;
    const uint64_t until = sum + Row<kCluster>::scan_warp(floor.keeps(x, id) ? weigh(x) : 0);
    const unsigned beyond = __ballot_sync(kAll, place < until);
    if (beyond != 0) {
      if (lane == __ffs(static_cast<int>(beyond)) - 1) choose(a, row, index, id, reported);
      return;
    }
    sum = __shfl_sync(kAll, until, 31);
  }
}

// Everything from the row's largest values on. The whole cluster takes the same way.
template <int kCluster>
__device__ void sample_row(Row<kCluster>& values, const SamplingArguments& a, const SamplingRow& row,
                           int64_t index, uint64_t random, const Message* received,
                           float thread_highest, int bias_begin, int bias_end) {
  using Place = typename Row<kCluster>::Place;
  Reported reported;
  const auto give_up = [&](SamplingStatus status) {
    if (values.rank() != 0 || threadIdx.x != 0) return;
    write_result(result_of(a, row, index), 0, status, 0.f, reported.num_top);
  };
  const auto everything = [](float) { return true; };
  // Entries of what `floor` keeps, to one block; how many there are.
  const auto gather = [&](unsigned to, const Floor& floor, float highest, uint64_t amount,
                          Place& amounts) {
    const auto taken = values.take(highest, floor);
    values.send(amount, __reduce_add_sync(kAll, taken.number));
    const Message* messages = values.receive();
    const Place numbers = values.place_of_warp(messages, number_of);
    amounts = values.place_of_warp(messages, amount_of);
    if (numbers.total > kGathered) return kGathered + 1;
    values.post(to, static_cast<uint32_t>(numbers.before), taken, floor, everything);
    if (to == values.rank()) values.collect(static_cast<uint32_t>(numbers.total));
    return static_cast<int>(numbers.total);
  };
  const uint32_t raw_highest = values.highest_of(received).y;
  if (raw_highest > kHighestKey || raw_highest < kLowestKey) {
    return give_up(SamplingStatus::kNotFinite);
  }
  const float raw_max = reported.raw_max = value_of(raw_highest);
  const Floor finite{value_of(kLowestKey), 0};
  const bool is_adjusted = has_penalty(row) || bias_end > bias_begin;
  const bool is_masked = row.mask_row >= 0 && row.mask_row < a.num_masks;
  const int wanted = min(row.num_top, kMaxTopLogprobs);
  const float least_top = wanted > 0 ? value_of(values.kth_maximum(received, wanted)) : INFINITY;
  Peaks peaks{};
  if (!is_adjusted && !is_masked) {
    peaks = peaks_of(values, row, received, raw_highest, thread_highest);
  }
  if (row.num_top >= 0) {
    const Weigher weigh{raw_max, kLog2E};
    const uint64_t mass = Row<kCluster>::sum_of_warp(thread_mass(values, weigh));
    Place masses;
    int count = gather(0, Floor{least_top, 0}, thread_highest, mass, masses);
    reported.log_sum = static_cast<float>((log2(static_cast<double>(masses.total)) - 44.0) * kLn2);
    if (count > kGathered) {
      const Floor floor = floor_of(values.find_cut(false, weigh, thread_highest, raw_max - 32.f,
                                                   finite, static_cast<uint64_t>(wanted)));
      count = gather(0, floor, thread_highest, 0, masses);
    }
    reported.num_top = min(count, wanted);
    if (values.rank() == 0 && wanted > 0) {
      report_top(values, result_of(a, row, index), count, wanted, raw_max, reported.log_sum);
    }
  }

  if (is_adjusted || is_masked) {
    if (is_adjusted) adjust(values, row, a, bias_begin, bias_end);
    const int32_t* mask = a.mask + static_cast<int64_t>(row.mask_row) * a.mask_words;
    float all_highest = -INFINITY, highest = -INFINITY;
    uint32_t allowed = kAll;
    values.each([&](int i, float x) {
      all_highest = max_or_nan(all_highest, x);
      if (is_masked && i % 4 == 0) {
        const uint32_t id = values.id_of(i);  // a multiple of 4
        const bool is_valid = id < static_cast<uint32_t>(a.num_valid);
        allowed = is_valid ? static_cast<uint32_t>(mask[id >> 5]) >> (id & 31) : 0;
      }
      if ((allowed >> (i % 4) & 1u) == 0) values[values.run_begin() + i] = x = -INFINITY;
      highest = max_or_nan(highest, x);
    });
#if defined(ERNIE_HOPPER)
    fence_proxy_async();  // the copy engine writes there next
#endif
    values.send(pack_highest(all_highest, highest), 0);
    received = values.receive();
    const uint2 both = values.highest_of(received);
    if (both.x > kHighestKey) return give_up(SamplingStatus::kNotFinite);
    if (both.y < kLowestKey) return give_up(SamplingStatus::kNoneLeft);
    peaks = peaks_of(values, row, received, both.y, highest);
  }

  const float top = value_of(peaks.highest);
  if (row.temperature <= 0.f) {
    // The holder's first thread that has the largest value, and its first one.
    if (values.warp() != peaks.holder) return;
    const unsigned holders = __ballot_sync(kAll, peaks.thread_highest == top);
    if (static_cast<int>(threadIdx.x) % 32 != __ffs(static_cast<int>(holders)) - 1) return;
    int i = 0;
    while (values[values.run_begin() + i] != top) ++i;
    return choose(a, row, index, values.id_of(i), reported);
  }

  const float temperature = fmaxf(row.temperature, 1e-20f);
  const Weigher weigh{top, kLog2E / temperature};
  const unsigned finisher = static_cast<unsigned>(index) % kCluster;
  Floor floor = finite;
  if (row.min_p > 0.f) floor.value = fmaxf(floor.value, fmaf(temperature, logf(row.min_p), top));
  const bool has_top_k = row.top_k > 0 && row.top_k < a.num_valid;
  bool is_cut = row.min_p > 0.f;
  Place masses{};
  int count = kGathered + 1;  // of entries at the finisher
  float least = floor.value;
  if (has_top_k || is_cut) {
    if (has_top_k) least = fmaxf(least, peaks.least);
    count = gather(finisher, Floor{least, 0}, peaks.thread_highest, 0, masses);
    if (count > kGathered && has_top_k) {
      if (row.top_k > Row<kCluster>::kSenders) {
        least = fmaxf(floor.value, top - 16.f * fmaxf(1.f, temperature));
      }
      floor = floor_of(values.find_cut(false, weigh, peaks.thread_highest, least, floor,
                                       static_cast<uint64_t>(row.top_k)));
      is_cut = true;
    }
  }
  uint64_t mine = 0;
  if (count > kGathered) {
    const Message* messages = nullptr;
    const auto weigh_all = [&](uint64_t number) {  // what is kept; `number` goes with it
      mine = is_cut ? thread_mass(values, weigh, floor) : thread_mass(values, weigh);
      values.send(Row<kCluster>::sum_of_warp(mine), number);
      messages = values.receive();
      masses = values.place_of_warp(messages, amount_of);
    };
    // The likely ones' number and mass, in case that top_p asks for no more.
    const bool tries_likely = kCluster > 1 && row.top_p < 1.f && !has_top_k;
    const Floor likely{fmaxf(peaks.least, floor.value), 0};
    typename Row<kCluster>::Taken taken;
    uint64_t likely_sums = 0;
    if (tries_likely) {
      taken = values.take(peaks.thread_highest, likely);
      values.each_taken(taken, likely, [&](int, float x) { likely_sums += weigh(x); });
      likely_sums = Row<kCluster>::sum_of_warp(likely_sums) |
                    static_cast<uint64_t>(__reduce_add_sync(kAll, taken.number)) << kMassBits;
    }
    weigh_all(likely_sums);
    if (row.top_p < 1.f) {
      const uint64_t target = target_mass(row.top_p, masses.total);
      if (tries_likely) {
        const Place numbers = values.place_of_warp(
            messages, [](const Message& m) { return m.number >> kMassBits; });
        const Place sums = values.place_of_warp(
            messages, [](const Message& m) { return m.number & kMassMask; });
        if (sums.total >= target) {
          floor = likely;
          least = likely.value;
          if (numbers.total <= kGathered) {
            count = static_cast<int>(numbers.total);
            values.post(finisher, static_cast<uint32_t>(numbers.before), taken, likely, everything);
            if (values.rank() == finisher) values.collect(static_cast<uint32_t>(count));
          }
        }
      }
      if (count > kGathered) {
        // Tokens of weight up to the average of what may be left out are not needed.
        const float spare =
            static_cast<float>(masses.total - target) / static_cast<float>(a.num_valid);
        const float bits = log2f(spare * 0.999999f + 0.5f) - 44.01f;
        float needed = fmaf(bits, temperature * kLn2, top);
        needed -= fmaxf(fabsf(top), fabsf(needed)) * 3e-7f;
        if (needed > floor.value) floor = {needed, 0};
        least = floor.value;
        Place none;
        count = gather(finisher, floor, peaks.thread_highest, 0, none);
        if (count > kGathered) {
          floor =
              floor_of(values.find_cut(true, weigh, peaks.thread_highest, least, floor, target));
          is_cut = true;
          weigh_all(0);
        }
      }
    }
  }
  if (count <= kGathered) {
    if (values.rank() == finisher) {
      finish(values, a, row, index, weigh, least, count, masses.total, random, reported);
    }
    return;
  }
  const uint64_t place = place_of(random, masses.total);
  const uint64_t until = masses.before + Row<kCluster>::sum_of_warp(mine);
  if (place < masses.before || place >= until) return;
  draw(values, a, row, index, weigh, floor, place, masses.before, mine, reported);
}

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
