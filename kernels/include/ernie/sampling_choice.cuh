// From a row's largest values to its token: which steps a row asks for, and the way through them.
#pragma once

#include "ernie/sampling_steps.cuh"

namespace ernie {

constexpr int kLikely = 96;  // warps' maxima; about twice as many tokens are likely

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
      if ((allowed >> (i % 4) & 1u) == 0 && x != -INFINITY) {  // one run of -inf has many threads
        values[values.run_begin() + i] = x = -INFINITY;
      }
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

}  // namespace ernie
