// Steps of sampling a row, each for all threads of a block (sampling_choice.cuh puts them together).
#pragma once

#include <cmath>

#include "ernie/max_or_nan.cuh"
#include "ernie/philox.h"
#include "ernie/sampling.h"
#include "ernie/sampling_search.cuh"
#include "ernie/vector.cuh"

namespace ernie {

struct SamplingArguments {
  const void* logits;
  const SamplingRow* rows;
  SamplingResult* results;
  int num_places;  // of results; -1: row r's result is the r-th
  float* scratch;  // [R, padded row] where rows do not fit into shared memory
  const int32_t* mask;
  const int32_t* bias_offsets;
  const int32_t* bias_ids;
  const float* bias_values;
  uint16_t* counts;
  const int32_t* prompt_seen;
  int32_t* latest;
  int64_t logits_stride;
  int num_rows;
  int num_valid;
  int vocabulary;    // width of counts
  int mask_words;    // width of mask and prompt_seen
  int num_masks;
  int num_seats;
  int block_values;  // a block's share of a row, a multiple of 4
  int vectors;       // of a thread
  bool logits_are_bf16;
  bool by_copies;  // rows are f32 and begin at multiples of 16 bytes
};

__device__ __forceinline__ bool bit_of(const int32_t* words, uint32_t bit) {
  return static_cast<uint32_t>(words[bit >> 5]) >> (bit & 31) & 1u;
}

// The part of `mass` that top_p keeps at least.
__device__ __forceinline__ uint64_t target_mass(float top_p, uint64_t mass) {
  const double wanted = ceil(static_cast<double>(top_p) * static_cast<double>(mass));
  return min(mass, static_cast<uint64_t>(fmax(1.0, wanted)));
}

// u · total with u = (random >> 11) · 2^-53, rounded down: below the total, whatever u is.
__device__ __forceinline__ uint64_t place_of(uint64_t random, uint64_t total) {
  return multiply_high(random & ~uint64_t{2047}, total);
}

// A warp's largest keys of two kinds, NaNs above everything.
__device__ __forceinline__ uint64_t pack_highest(float high, float low) {
  const auto key = [](float x) { return __reduce_max_sync(kAll, x == x ? key_of(x) : kAll); };
  return static_cast<uint64_t>(key(high)) << 32 | key(low);
}

__device__ inline bool has_penalty(const SamplingRow& row) {
  return row.repetition != 1.f || row.frequency != 0.f || row.presence != 0.f;
}

__device__ inline float raw_logit(const SamplingArguments& a, int64_t row, int64_t id) {
  const int64_t place = row * a.logits_stride + id;
  return a.logits_are_bf16 ? __bfloat162float(static_cast<const bf16*>(a.logits)[place])
                           : static_cast<const float*>(a.logits)[place];
}

// Null for a row whose result goes nowhere.
__device__ inline SamplingResult* result_of(const SamplingArguments& a, const SamplingRow& row,
                                            int64_t index) {
  if (a.num_places < 0) return a.results + index;
  return row.place >= 0 && row.place < a.num_places ? a.results + row.place : nullptr;
}

// All of a result but its most likely tokens, in one store.
__device__ inline void write_result(SamplingResult* result, uint32_t token, SamplingStatus status,
                                    float logprob, int num_top) {
  if (result == nullptr) return;
  *reinterpret_cast<int4*>(result) = make_int4(
      static_cast<int>(token), static_cast<int>(status), __float_as_int(logprob), num_top);
}

// What is known of a row's log-probabilities when its token is chosen.
struct Reported {
  float raw_max = 0.f;
  float log_sum = 0.f;
  int num_top = 0;
};

// One thread of the cluster calls this.
__device__ inline void choose(const SamplingArguments& a, const SamplingRow& row, int64_t index,
                              uint32_t token, const Reported& reported) {
  float logprob = 0.f;
  if (row.num_top >= 0) {
    logprob = raw_logit(a, index, token) - reported.raw_max - reported.log_sum;
  }
  write_result(result_of(a, row, index), token, SamplingStatus::kOk, logprob, reported.num_top);
  if (row.seat < 0 || row.seat >= a.num_seats) return;
  if (a.latest != nullptr) a.latest[row.seat] = static_cast<int32_t>(token);
  if (a.counts != nullptr && has_penalty(row)) {
    uint16_t& count = a.counts[static_cast<int64_t>(row.seat) * a.vocabulary + token];
    if (count < 0xffff) ++count;
  }
}

// The block's share of a row, where the copy engine cannot bring it.
template <int kCluster>
__device__ void load(Row<kCluster>& values, const SamplingArguments& a, int64_t index, int length) {
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < length; i += kSamplingThreads) {
    const int id = values.first_id() + i;
    values[i] = i < a.block_values && id < a.num_valid ? raw_logit(a, index, id) : -INFINITY;
  }
  __syncthreads();
}

// Penalties and biases; begins and ends in a barrier of the block.
template <int kCluster>
__device__ void adjust(Row<kCluster>& values, const SamplingRow& row, const SamplingArguments& a,
                       int bias_begin, int bias_end) {
  const int length = min(a.block_values, a.num_valid - values.first_id());
  __syncthreads();
  const bool has_seat = row.seat >= 0 && row.seat < a.num_seats;
  if (has_penalty(row) && has_seat && a.counts != nullptr) {
    const uint16_t* counts =
        a.counts + static_cast<int64_t>(row.seat) * a.vocabulary + values.first_id();
    const int32_t* seen = a.prompt_seen == nullptr
                              ? nullptr
                              : a.prompt_seen + static_cast<int64_t>(row.seat) * a.mask_words;
    const auto penalize = [&](int i, int count) {
      float value = values[i];
      const uint32_t id = static_cast<uint32_t>(values.first_id() + i);
      if (count > 0 || (seen != nullptr && bit_of(seen, id))) {
        value = value > 0.f ? value / row.repetition : value * row.repetition;
      }
      if (count > 0) value -= static_cast<float>(count) * row.frequency + row.presence;
      values[i] = value;
    };
    if (a.vocabulary % 4 == 0) {
      // Four ids begin at a multiple of four: their counts are 8 bytes, their bits within a word.
      for (int i = 4 * static_cast<int>(threadIdx.x); i < length; i += 4 * kSamplingThreads) {
        const uint2 four = *reinterpret_cast<const uint2*>(counts + i);
        const uint32_t id = static_cast<uint32_t>(values.first_id() + i);
        const uint32_t bits =
            seen == nullptr ? 0 : static_cast<uint32_t>(seen[id >> 5]) >> (id & 31) & 15u;
        if ((four.x | four.y | bits) == 0) continue;
        uint64_t of_four = static_cast<uint64_t>(four.y) << 32 | four.x;
#pragma unroll 1
        for (int e = 0; e < 4 && i + e < length; ++e, of_four >>= 16) {
          penalize(i + e, static_cast<int>(of_four & 0xffff));
        }
      }
    } else {
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < length; i += kSamplingThreads) {
        penalize(i, counts[i]);
      }
    }
  }
  __syncthreads();
  for (int e = bias_begin + static_cast<int>(threadIdx.x); e < bias_end; e += kSamplingThreads) {
    const int i = a.bias_ids[e] - values.first_id();
    if (i >= 0 && i < length) atomicAdd(&values[i], a.bias_values[e]);  // may have a bias and a ban
  }
  __syncthreads();
}

// What one of the cluster's blocks does when all that can be chosen is gathered, in the order of
// ids: top_k and top_p of `count` entries no lower than `least`, and the draw. `mass` is that of all
// tokens, 0 to take the gathered ones'.
template <int kCluster>
__device__ void finish(Row<kCluster>& values, const SamplingArguments& a, const SamplingRow& row,
                       int64_t index, const Weigher& weigh, float least, int count, uint64_t mass,
                       uint64_t random, const Reported& reported) {
  RowShared<kCluster>& shared = values.shared();
  Bins& bins = values.free_bins();
  const int mine = static_cast<int>(threadIdx.x), warp = mine / 32;
  // Sums over the earlier ones of kGathered threads.
  const auto sum_before = [&](uint64_t value) {
    uint64_t upto = 0;
    if (mine < kGathered) upto = Row<kCluster>::scan_warp(value);
    if (mine < kGathered && mine % 32 == 31) shared.of_scan[warp] = upto;
    __syncthreads();
    uint64_t before = upto - value;
#pragma unroll
    for (int w = 0; w < kGathered / 32; ++w) before += w < warp ? shared.of_scan[w] : 0;
    return before;
  };
  // Sorted roughly, by bins; each sums its entries' weights and, above those bits, their number.
  const auto number_in = [](uint64_t sums) { return static_cast<int>(sums >> kMassBits); };
  const bool has_entry = mine < count;
  if (mine < kBins) bins.sums[mine] = 0;
  __syncthreads();
  uint64_t entry = 0, weight = 0;
  int bin = 0, slot = 0;
  if (has_entry) {
    entry = shared.gathered[mine];
    const float value = value_of(static_cast<uint32_t>(entry >> 32));
    weight = weigh(value);
    bin = linear_bin(weigh.top - value, bin_steps(weigh.top - least));
    const uint64_t sums = Row<kCluster>::add_to_bin(bins, bin, weight | uint64_t{1} << kMassBits);
    slot = number_in(sums);
  }
  __syncthreads();
  const uint64_t sums = mine < kBins ? bins.sums[mine] : 0;
  const uint64_t above_bin = sum_before(sums);
  if (mine < kBins) bins.sums[mine] = above_bin;
  __syncthreads();
  if (has_entry) shared.gathered[number_in(bins.sums[bin]) + slot] = entry;
  __syncthreads();
  int better = 0;
  uint64_t above = 0;
  if (has_entry) {
    better = number_in(bins.sums[bin]);
    above = bins.sums[bin] & kMassMask;
    const int end = bin + 1 < kBins ? number_in(bins.sums[bin + 1]) : count;
    for (int i = better; i < end; ++i) {
      const uint64_t other = shared.gathered[i];
      if (other <= entry) continue;
      above += weigh(value_of(static_cast<uint32_t>(other >> 32)));
      ++better;
    }
  }
  const int limit = row.top_k > 0 && row.top_k < count ? row.top_k : count;
  bool is_kept = has_entry && better < limit;
  const bool is_last = has_entry && better == limit - 1;
  uint64_t target = ~uint64_t{0};
  if (row.top_p < 1.f) {
    if (mass == 0) {
      if (is_last) shared.amount[0] = above + weight;
      __syncthreads();
      mass = shared.amount[0];
    }
    target = target_mass(row.top_p, mass);
    is_kept = is_kept && above < target;
  }
  if (is_kept && (is_last || above + weight >= target)) shared.amount[1] = above + weight;
  const uint64_t before = sum_before(is_kept ? weight : 0);  // lower ids, for those are in order
  const uint64_t place = place_of(random, shared.amount[1]);
  if (is_kept && before <= place && place < before + weight) {
    choose(a, row, index, kAll - static_cast<uint32_t>(entry), reported);
  }
}

// The most likely tokens by raw logits, sorted; they have been gathered.
template <int kCluster>
__device__ void report_top(Row<kCluster>& values, SamplingResult* result, int count, int wanted,
                           float top, float log_sum) {
  const uint64_t* gathered = values.shared().gathered;
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= count || result == nullptr) return;
  const uint64_t entry = gathered[mine];
  int better = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) better += gathered[i] > entry;
  if (better >= wanted) return;
  result->top_ids[better] = static_cast<int32_t>(kAll - static_cast<uint32_t>(entry));
  result->top_logprobs[better] = value_of(static_cast<uint32_t>(entry >> 32)) - top - log_sum;
}

template <int kCluster>
__device__ uint64_t thread_mass(const Row<kCluster>& values, const Weigher& weigh) {
  WeightSum sum;
  values.each([&](int, float x) { sum.add(weigh.fraction(x)); });
  return sum.total(static_cast<uint32_t>(values.run_length()));
}

// Of what is kept.
template <int kCluster>
__device__ uint64_t thread_mass(const Row<kCluster>& values, const Weigher& weigh,
                                const Floor& floor) {
  WeightSum sum;
  values.each([&](int i, float x) {
    sum.add(floor.keeps(x, values.id_of(i)) ? weigh.fraction(x) : 0.f);
  });
  return sum.total(static_cast<uint32_t>(values.run_length()));
}

}  // namespace ernie
