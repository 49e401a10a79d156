// The copies that fill the stages, chunk after chunk of this block's items.
#pragma once

#include "ernie/mma.cuh"
#include "ernie/stream_items.cuh"
#include "ernie/stream_memory.cuh"

namespace ernie {

template <bool kGated, bool kGrouped, class Shape>
class StreamCopies : protected StreamItems<kGated, kGrouped, Shape> {
 protected:
  using Items = StreamItems<kGated, kGrouped, Shape>;
  using Items::decode;
  using Items::is_always;
  using Items::job_;
  using Items::pairs_;
  using Items::queue_;
  using Items::total_;
  using Stages = StreamStages<Shape>;
  using Stages::base_;
  using Stages::chunks_;
  using Stages::stage_bytes_;

  static constexpr int kPitch = Shape::kPitch;
  static constexpr int kSegments = kPitch / 16;                  // 16-byte pieces of a row
  static constexpr int kRowStep = kStreamThreads / kSegments;    // rows that one copy covers
  static constexpr int kWeightCopies = Shape::kRows / kRowStep;  // copies of each thread
  static constexpr int kTokenCopies = (Shape::kTokens + kRowStep - 1) / kRowStep;
  static_assert(kWeightCopies == 4 * Shape::kSteps && kRowStep % 2 == 0,
                "the copy pattern expects this");

  __device__ StreamCopies(const StreamJob& job, char* shared) : Items(job, shared) {
    copy_row_ = threadIdx.x / kSegments;
    const int segment = threadIdx.x % kSegments;
    copy_column_ = segment * 8;
    copy_offset_ = copy_row_ * kPitch + ((segment ^ ((copy_row_ & 1) << 2)) << 4);
  }

  __device__ void begin_load() {
    load_item_ = decode(load_index_);
    begin_weights();
    begin_tokens();
  }

  __device__ void begin_weights() {
    const size_t matrix = static_cast<size_t>(kGated ? 2 * job_.rows : job_.rows) * job_.depth;
    weights_ = job_.w + (kGrouped ? load_item_.group * matrix : 0);
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      const int r = copy_row_ + i * kRowStep;
      int row;
      if (kGated) {  // rows 0-7 of 16 are gates, 8-15 the same features' up rows
        const int feature = load_item_.tile * (Shape::kRows / 2) + r / 16 * 8 + r % 8;
        row = min(feature, job_.rows - 1) + (r % 16 < 8 ? 0 : job_.rows);
      } else {
        row = min(load_item_.tile * Shape::kRows + r, job_.rows - 1);
      }
      weight_offsets_[i] = static_cast<uint32_t>(row) * static_cast<uint32_t>(job_.depth);
    }
  }

  __device__ void begin_tokens() {
#pragma unroll
    for (int i = 0; i < kTokenCopies; ++i) {
      const int local = copy_row_ + i * kRowStep;
      const int token = load_pass_ * Shape::kTokens + local;
      token_rows_[i] = -1;
      if (local < Shape::kTokens && token < load_item_.count) {
        int row = token;
        if (kGrouped) {
          if (!kGated) row += load_item_.start;
          if (kGated && !is_always(load_item_.group)) {
            row = pairs_[row + load_item_.start] / job_.groups.slots;
          }
        }
        token_rows_[i] = row;
      }
    }
  }

  __device__ void copy_weights(int slot, int chunk) const {
    const int column = chunk * Shape::kDepth + copy_column_;
    const bool valid = column < job_.depth;
    const bf16* source = weights_ + (valid ? column : 0);
    const uint32_t target = base_ + slot * stage_bytes_ + copy_offset_;
#pragma unroll
    for (int i = 0; i < kWeightCopies; ++i) {
      cp_async_weights(target + i * (kRowStep * kPitch), source + weight_offsets_[i], valid);
    }
  }

  __device__ void copy_tokens(int slot, int chunk) const {
    const int column = chunk * Shape::kDepth + copy_column_;
    const bool valid = column < job_.depth;
    const bf16* source = job_.x + (valid ? column : 0);
    const uint32_t target = base_ + slot * stage_bytes_ + Shape::kWeightBytes + copy_offset_;
#pragma unroll
    for (int i = 0; i < kTokenCopies; ++i) {
      if (token_rows_[i] >= 0) {
        cp_async_16(target + i * (kRowStep * kPitch),
                    source + static_cast<size_t>(token_rows_[i]) * job_.depth, valid);
      }
    }
  }

  // For the item after the next, while there may be one; by thread 0, at the start and whenever an item
  // begins to load. A block that needs no more says so at once, not at its end, where all would wait
  // for the answer; the last one to say it leaves the counters as it found them. That needs no fence:
  // every ticket was handed out, because each block has read its last one.
  __device__ void draw_ticket() {
    int* tickets = job_.groups.tickets;
    if (load_index_ < total_) {
      ticket_ = atomicAdd(tickets, 1);
    } else if (atomicAdd(tickets + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      tickets[0] = 0;
      tickets[1] = 0;
    }
  }

  // Starts the copies of the next stage, if there is one, and moves on.
  __device__ void load(int slot, bool with_weights) {
    if (load_index_ >= total_) return;
    if (with_weights) copy_weights(slot, load_chunk_);
    copy_tokens(slot, load_chunk_);
    if (++load_chunk_ < chunks_) return;
    load_chunk_ = 0;
    ++load_pass_;
    if (load_pass_ * Shape::kTokens < load_item_.count) {
      begin_tokens();
      return;
    }
    load_pass_ = 0;
    ++load_order_;
    if (kGrouped) {
      load_index_ = queue_[load_order_ % kStreamQueue];
      if (threadIdx.x == 0) {  // for the item after this one: asked for an item ago
        queue_[(load_order_ + 1) % kStreamQueue] = ticket_ + 2 * gridDim.x;
        draw_ticket();
      }
    } else {
      load_index_ += gridDim.x;
    }
    if (load_index_ < total_) begin_load();
  }

  int copy_row_;
  int copy_column_;
  uint32_t copy_offset_;

  const bf16* weights_ = nullptr;
  uint32_t weight_offsets_[kWeightCopies];
  int token_rows_[kTokenCopies];
  StreamItem load_item_{};
  int load_index_ = 0;
  int load_order_ = 0;
  int load_pass_ = 0;
  int load_chunk_ = 0;
  int ticket_ = 0;
};

}  // namespace ernie
