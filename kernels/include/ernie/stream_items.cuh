// Which items there are: every tile of every group that has tokens. A block takes its first two by its
// number, the others by tickets, through a queue in shared memory.
#pragma once

#include "ernie/stream_stages.cuh"

namespace ernie {

template <bool kGated, bool kGrouped, class Shape>
class StreamItems : protected StreamStages<Shape> {
 protected:
  using Stages = StreamStages<Shape>;
  using Stages::job_;

  // Behind the stages lie the sums of a tile's parts, the lists and the queue.
  __device__ StreamItems(const StreamJob& job, char* shared) : Stages(job, shared) {
    char* rest = shared + Shape::kStages * this->stage_bytes_;
    sums_ = reinterpret_cast<float4*>(rest);
    list_group_ = reinterpret_cast<int*>(rest + Shape::kSumBytes);
    list_start_ = list_group_ + kStreamMaxGroups;
    list_count_ = list_start_ + kStreamMaxGroups;
    queue_ = list_count_ + kStreamMaxGroups;
    warp_counts_ = queue_ + kStreamQueue;
    pairs_ = reinterpret_cast<uint16_t*>(warp_counts_ + 16);
  }

  __device__ StreamItem decode(int item) const {
    if (!kGrouped) return StreamItem{0, item, 0, job_.tokens};
    const int entry = item / job_.tiles;
    return StreamItem{list_group_[entry], item - entry * job_.tiles, list_start_[entry],
                      list_count_[entry]};
  }

  __device__ bool is_always(int group) const {
    return static_cast<unsigned>(group - job_.groups.first_always) <
           static_cast<unsigned>(job_.groups.num_always);
  }

  // The groups that have tokens, those that always do first; the pairs' sorted list. Read from the
  // L2: no pdl_wait() has emptied the L1 when the down product comes here.
  __device__ void build_lists() {
    const StreamGroups& groups = job_.groups;
    const int thread = threadIdx.x;
    int start = 0, count = 0;
    bool always = false;
    if (thread < groups.num_groups) {
      start = __ldcg(groups.offsets + thread);
      count = __ldcg(groups.offsets + thread + 1) - start;
      always = is_always(thread);
    }
    if (thread == 0) {
      queue_[0] = blockIdx.x;
      queue_[1] = blockIdx.x + gridDim.x;
    }
    for (int p = thread; p < groups.pairs; p += kStreamThreads) {
      pairs_[p] = static_cast<uint16_t>(__ldcg(groups.order + p));
    }
    const bool listed = count > 0 && !always;
    const unsigned votes = __ballot_sync(0xffffffffu, listed);
    if (thread % 32 == 0) warp_counts_[thread / 32] = __popc(votes);
    __syncthreads();
    int before = groups.num_always, all = groups.num_always;
#pragma unroll
    for (int w = 0; w < kStreamThreads / 32; ++w) {
      if (w < thread / 32) before += warp_counts_[w];
      all += warp_counts_[w];
    }
    const int entry = always ? thread - groups.first_always
                             : before + __popc(votes & ((1u << (thread % 32)) - 1));
    if (listed || always) {
      list_group_[entry] = thread;
      list_start_[entry] = start;
      list_count_[entry] = count;
    }
    total_ = all * job_.tiles;
    __syncthreads();
  }

  int total_ = 0;  // items of the launch

  float4* sums_;
  int* list_group_;
  int* list_start_;
  int* list_count_;
  int* queue_;
  int* warp_counts_;
  uint16_t* pairs_;
};

}  // namespace ernie
