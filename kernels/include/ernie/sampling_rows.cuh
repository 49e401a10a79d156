// Sampling. A row is the work of a cluster of blocks that keeps it in its shared memory; clusters take
// one row after another, the next one's logits on their way meanwhile. Steps that a row does not ask
// for are passed over.
#pragma once

#include "ernie/pdl.cuh"
#include "ernie/sampling_choice.cuh"

namespace ernie {

constexpr int kSamplingRun = 4 * kSamplingVectors;  // values of a thread of a cluster

// Of the two shares of rows that a block of a cluster keeps.
inline size_t sampling_buffer_bytes(int block_values) {
  const int runs = (block_values + kSamplingRun - 1) / kSamplingRun;
  return 2 * sizeof(float) * static_cast<size_t>(runs + 1) * kSamplingRun;
}

// A block's part of the rows of its cluster, or its rows. `buffers`: two shares of rows, in shared
// memory; `arrived`: mbarriers.
template <int kCluster>
__device__ __forceinline__ void sample_rows(const SamplingArguments& a, float* buffers,
                                            RowShared<kCluster>& shared, SamplingRow* rows,
                                            [[maybe_unused]] uint64_t* arrived) {
  const int padded = (a.block_values + kSamplingRun - 1) / kSamplingRun * kSamplingRun;
  const int buffer_values = kCluster > 1 ? padded + kSamplingRun : a.vectors * 4 * kSamplingThreads;
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
    copy_bulk(shared_address(&rows[slot]), a.rows + index, sizeof(SamplingRow), barrier);
    const float* logits = static_cast<const float*>(a.logits) + index * a.logits_stride;
    float* buffer = buffers + slot * buffer_values;
    if (bytes > 0) copy_bulk(shared_address(buffer), logits + values.first_id(), bytes, barrier);
#endif
  };
  if (threadIdx.x == 0) shared.rounds = 0;
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
      if (kCluster == 1 && step > 0) __syncthreads();  // all have left the row before: one buffer
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
  if (kCluster > 1 && shared.rounds > 0) values.sync();  // other blocks have read the last bins
}

}  // namespace ernie
