// Products of a few token rows with many weight rows: the weights pass once through shared memory
// at the memory's full rate, and the tensor cores work in their shadow.
//
// A tile is kRows = 128 / kSplit weight rows; a stage holds kDepth = 64 · kSplit · kSteps of their
// columns, 16 · kSteps KB, and the same columns of up to 8 · kTiles token rows. Eight warps divide
// a stage into kSplit parts of 64 · kSteps columns times 8 / kSplit parts of 16 weight rows (the M of
// mma.m16n8k16; tokens are its N), and add the kSplit sums in a fixed order when a tile ends. kSplit
// therefore trades small tiles, which spread evenly over the device, against reads of the token
// rows, which each tile repeats. More than 8 · kTiles tokens take further passes over the tile,
// whose weights are then in the L2.
//
// Columns are read in another order than the tensor core's: lane (g, t) = (lane / 4, lane % 4) takes
// the 16 bytes at column 8t of a 32-column part, of weight rows g and g + 8 and of token g, which are
// the fragments of two products. The sum over columns does not mind.
//
// Blocks stay: a block takes items (a tile of a group) one after another and never drains its
// stages in between. Weights that are known to be needed are on their way before pdl_wait().
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ernie/pdl.cuh"
#include "ernie/stream_copies.cuh"
#include "ernie/stream_sums.cuh"

namespace ernie {

__device__ __forceinline__ float silu(float v) { return v / (1.f + __expf(-v)); }

template <bool kGated, bool kGrouped, class Shape>
class WeightStream : StreamCopies<kGated, kGrouped, Shape> {
  using Stages = StreamStages<Shape>;
  using Stages::base_;
  using Stages::chunks_;
  using Stages::job_;
  using Stages::stage_bytes_;
  using Items = StreamItems<kGated, kGrouped, Shape>;
  using Items::build_lists;
  using Items::decode;
  using Items::pairs_;
  using Items::queue_;
  using Items::sums_;
  using Items::total_;
  using Copies = StreamCopies<kGated, kGrouped, Shape>;
  using Copies::begin_load;
  using Copies::begin_tokens;
  using Copies::begin_weights;
  using Copies::copy_column_;
  using Copies::copy_offset_;
  using Copies::copy_weights;
  using Copies::draw_ticket;
  using Copies::kRowStep;
  using Copies::kTokenCopies;
  using Copies::load;
  using Copies::load_index_;
  using Copies::load_item_;
  using Copies::token_rows_;
  using Product = StreamSums<kGrouped, Shape>;
  using Fragments = typename Product::Fragments;
  using Sums = typename Product::Sums;

  static constexpr int kSplit = Shape::kSplit;
  static constexpr int kTiles = Shape::kTiles;
  static constexpr int kStages = Shape::kStages;
  static constexpr int kPitch = Shape::kPitch;
  static constexpr int kRowTiles = 8 / kSplit;

 public:
  __device__ WeightStream(const StreamJob& job, char* shared) : Copies(job, shared) {}

  __device__ void run() {
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    // Which items are known ahead: all of a dense product; of the experts' down product too, because
    // the up product lets it in only when the routing is there; of the up product the experts that
    // every token takes.
    if (kGrouped && !kGated) build_lists();
    const int known = kGrouped && kGated ? job_.groups.num_always * job_.tiles
                      : kGrouped         ? total_
                                         : job_.tiles;
    int ahead = 0;
    int item = blockIdx.x;
    if (item < known) {
      if (kGrouped && kGated) {
        const int entry = item / job_.tiles;
        load_item_ = {job_.groups.first_always + entry, item - entry * job_.tiles, 0, job_.tokens};
      } else {
        load_item_ = decode(item);
      }
      begin_weights();
      begin_tokens();
      ahead = min(chunks_, kStages);  // every stage is free
      for (int s = 0; s < ahead; ++s) copy_weights(s, s);
    }
    total_ = known;
    if (!kGrouped && kTiles == 1 && chunks_ <= kStages && job_.tokens <= Shape::kTokens &&
        item + static_cast<int>(gridDim.x) >= total_) {
      run_last(item, warp, lane);
      return;
    }
    pdl_wait();
    int started = 0;
    load_index_ = item;
    if (kGrouped && kGated) {
      pdl_trigger();
      if (item < known) {  // no list is needed for all but the item's last stage
        for (; started < ahead && started + 1 < chunks_; ++started) {
          load(started, false);
          cp_async_commit();
        }
      }
      build_lists();
    }
    if (kGrouped && threadIdx.x == 0) draw_ticket();
    if (ahead == 0 && load_index_ < total_) begin_load();
    for (int s = started; s < kStages; ++s) {
      load(s, s >= ahead);
      cp_async_commit();
      // A second item may end here: the queue's next is needed.
      if (kGrouped && 2 * chunks_ <= kStages) __syncthreads();
    }

    int order = 0;  // of the item among this block's
    int slot = 0;
    int chunk = 0;
    int pass = 0;
    StreamItem current{};
    Sums acc;
    Fragments from = Product::fragments(warp, lane, 0);
    int tiles = 0;
    cp_async_wait<kStages - 1>();
    __syncthreads();
    while (item < total_) {
      if (chunk == 0) {
        if (pass == 0) current = decode(item);
        const int left = min(current.count - pass * Shape::kTokens, Shape::kTokens);
        tiles = (left + 7) / 8;
        from = Product::fragments(warp, lane, left);
        Product::clear(acc);
      }
      Product::multiply(acc, tiles, base_ + slot * stage_bytes_, from);

      if (++chunk == chunks_) {
        chunk = 0;
        store(acc, tiles, current, pass, warp, lane);
        ++pass;
        if (pass * Shape::kTokens >= current.count) {
          pass = 0;
          ++order;
          item = kGrouped ? queue_[order % kStreamQueue] : item + static_cast<int>(gridDim.x);
          if (item >= total_) break;
        }
      }
      // The next stage is there, and nobody reads this one any more: it is loaded anew.
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load(slot, true);
      cp_async_commit();
      if (++slot == kStages) slot = 0;
    }
  }

 private:
  // A dense product's last item in this block, all of whose weights are on their way: nothing is
  // loaded behind it, so one barrier does. What can be known of the token rows is known ahead.
  __device__ void run_last(int item, int warp, int lane) {
    const uint32_t target = base_ + Shape::kWeightBytes + copy_offset_;
    const int column = copy_column_ < job_.depth ? copy_column_ : 0;
    const bf16* sources[kTokenCopies];
#pragma unroll
    for (int i = 0; i < kTokenCopies; ++i) {
      sources[i] = job_.x + static_cast<size_t>(max(token_rows_[i], 0)) * job_.depth + column;
    }
    const Fragments from = Product::fragments(warp, lane, job_.tokens);
    Sums acc;
    Product::clear(acc);
    pdl_wait();
    if (item >= total_) return;
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s == chunks_) break;
      const bool valid = s * Shape::kDepth + copy_column_ < job_.depth;
#pragma unroll
      for (int i = 0; i < kTokenCopies; ++i) {
        if (token_rows_[i] >= 0) {
          cp_async_16(target + s * stage_bytes_ + i * (kRowStep * kPitch),
                      sources[i] + (valid ? s * Shape::kDepth : 0), valid);
        }
      }
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int s = 0; s < chunks_; ++s) Product::multiply(acc, 1, base_ + s * stage_bytes_, from);
    store(acc, 1, decode(item), 0, warp, lane);
  }

  __device__ void store(Sums& acc, int tiles, const StreamItem& item, int pass, int warp,
                        int lane) {
    Product::join(acc);
    if constexpr (kSplit == 1) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j < tiles) write(acc[j], item, pass, warp, j, lane);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j < tiles) {
          sums_[(warp * kTiles + j) * 32 + lane] =
              make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
        }
      }
      // The next stage's barrier comes before these are written again.
      __syncthreads();
      for (int part = warp; part < kRowTiles * tiles; part += 8) {
        const int row_tile = part % kRowTiles;
        const int j = part / kRowTiles;
        float sum[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
        for (int s = 0; s < kSplit; ++s) {
          const float4 v = sums_[((row_tile * kSplit + s) * kTiles + j) * 32 + lane];
          sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
        }
        write(sum, item, pass, row_tile, j, lane);
      }
    }
  }

  // Values of weight rows g and g + 8 (sums 0-1 and 2-3) and tokens 2t, 2t + 1 of tile j.
  __device__ void write(const float (&sum)[4], const StreamItem& item, int pass, int row_tile,
                        int j, int lane) const {
    const int g = lane / 4;
    const int first = pass * Shape::kTokens + j * 8 + (lane % 4) * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = first + i;
      if (token >= item.count) continue;
      int row = token;
      if (kGrouped) {
        row += item.start;
        if (!kGated) row = pairs_[row];
      }
      const size_t line = static_cast<size_t>(row) * job_.rows;
      if (kGated) {
        const int feature = item.tile * (Shape::kRows / 2) + row_tile * 8 + g;
        if (feature < job_.rows) {
          static_cast<bf16*>(job_.out)[line + feature] =
              __float2bfloat16_rn(silu(sum[i]) * sum[2 + i]);
        }
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = item.tile * Shape::kRows + row_tile * 16 + half * 8 + g;
          if (column >= job_.rows) continue;
          float value = sum[half * 2 + i];
          if (!kGrouped) {
            if (job_.bias) value += __bfloat162float(job_.bias[column]);
            if (job_.residual) value += __bfloat162float(job_.residual[line + column]);
          }
          if (!kGrouped && job_.float_out) {
            static_cast<float*>(job_.out)[line + column] = value;
          } else {
            static_cast<bf16*>(job_.out)[line + column] = __float2bfloat16_rn(value);
          }
        }
      }
    }
  }
};

template <bool kGated, bool kGrouped, int kSplit, int kTiles, int kSteps = 1>
__global__ void __launch_bounds__(kStreamThreads, kSteps > 1 ? 1 : kTiles == 1 ? 3 : 2)
    weight_stream(const __grid_constant__ StreamJob job) {
  extern __shared__ __align__(128) char shared[];
  if (!(kGated && kGrouped)) pdl_trigger();  // the experts' up product does it later
  WeightStream<kGated, kGrouped, StreamShape<kSplit, kTiles, kSteps>>(job, shared).run();
}

}  // namespace ernie
