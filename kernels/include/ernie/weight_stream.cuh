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

#include "ernie/mma.cuh"
#include "ernie/pdl.cuh"
#include "ernie/stream_memory.cuh"
#include "ernie/vector.cuh"

namespace ernie {

// Groups of token rows, each with its own weights. All pointers are on the device.
struct StreamGroups {
  const int* offsets;  // [num_groups + 1] sorted pairs of the launch's groups
  const int* order;    // [pairs] pair at each sorted position
  int* tickets;        // [2] zero: items given out beyond the first two of each block, blocks done
  int num_groups;
  int pairs;         // of all groups, also those of other launches
  int slots;         // pairs of one token
  int first_always;  // groups first_always … + num_always - 1 hold every token
  int num_always;
};

struct StreamJob {
  const bf16* x;         // [tokens, depth], or sorted rows [pairs, depth]
  const bf16* w;         // [groups, rows (2 · rows if gated), depth]
  void* out;             // [tokens or pairs, rows]
  const bf16* bias;      // [rows] or null; ungrouped only
  const bf16* residual;  // [tokens, rows] or null; ungrouped only
  int tokens;
  int rows;   // of the result; gate and up rows count once
  int depth;  // a multiple of 8
  int tiles;  // tiles of one group
  bool float_out;
  StreamGroups groups;  // grouped only
};

constexpr int kStreamThreads = 256;
constexpr int kStreamMaxGroups = kStreamThreads;
constexpr int kStreamQueue = 16;  // items between the first loaded and the last computed, at most

template <int kSplit_, int kTiles_, int kSteps_ = 1>
struct StreamShape {
  static constexpr int kSplit = kSplit_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kSteps = kSteps_;
  static constexpr int kRows = 128 / kSplit;
  static constexpr int kDepth = 64 * kSplit * kSteps;
  static constexpr int kTokens = 8 * kTiles;
  static constexpr int kStages = kTiles == 1 ? 5 : 4;
  static constexpr int kPitch = 2 * kDepth;  // bytes of a row in a stage
  static constexpr int kWeightBytes = kRows * kPitch;
  static constexpr int kSumBytes = kSplit == 1 ? 0 : 4096 * kTiles;
  static_assert(kStages + 1 < kStreamQueue, "the queue is too short");

  static int stage_tokens(int tokens) { return tokens < kTokens ? tokens : kTokens; }
  static size_t shared_bytes(int tokens, int pairs) {
    return static_cast<size_t>(kStages) * (kWeightBytes + stage_tokens(tokens) * kPitch) +
           kSumBytes + (3 * kStreamMaxGroups + kStreamQueue + 16) * sizeof(int) +
           static_cast<size_t>(pairs) * sizeof(uint16_t);
  }
};

__device__ __forceinline__ float silu(float v) { return v / (1.f + __expf(-v)); }

// One item: a tile of weight rows of a group, with the group's tokens.
struct StreamItem {
  int group;  // of the launch
  int tile;
  int start;  // sorted position of the first token
  int count;  // tokens
};

template <bool kGated, bool kGrouped, class Shape>
class WeightStream {
  static constexpr int kSplit = Shape::kSplit;
  static constexpr int kTiles = Shape::kTiles;
  static constexpr int kSteps = Shape::kSteps;
  static constexpr int kStages = Shape::kStages;
  static constexpr int kPitch = Shape::kPitch;
  static constexpr int kSegments = kPitch / 16;                  // 16-byte pieces of a row
  static constexpr int kRowStep = kStreamThreads / kSegments;    // rows that one copy covers
  static constexpr int kWeightCopies = Shape::kRows / kRowStep;  // copies of each thread
  static constexpr int kTokenCopies = (Shape::kTokens + kRowStep - 1) / kRowStep;
  static constexpr int kRowTiles = 8 / kSplit;
  // Sums of one tile of tokens: where nothing else hides it, no product waits for the one before.
  static constexpr int kChains = kTiles == 1 && !kGrouped ? 2 : 1;
  using Sums = float[kTiles * kChains][4];
  static_assert(kWeightCopies == 4 * kSteps && kRowStep % 2 == 0, "the copy pattern expects this");

 public:
  __device__ WeightStream(const StreamJob& job, char* shared)
      : job_(job),
        base_(shared_address(shared)),
        stage_bytes_(Shape::kWeightBytes + min(job.tokens, Shape::kTokens) * kPitch),
        chunks_((job.depth + Shape::kDepth - 1) / Shape::kDepth) {
    char* rest = shared + kStages * stage_bytes_;
    sums_ = reinterpret_cast<float4*>(rest);
    list_group_ = reinterpret_cast<int*>(rest + Shape::kSumBytes);
    list_start_ = list_group_ + kStreamMaxGroups;
    list_count_ = list_start_ + kStreamMaxGroups;
    queue_ = list_count_ + kStreamMaxGroups;
    warp_counts_ = queue_ + kStreamQueue;
    pairs_ = reinterpret_cast<uint16_t*>(warp_counts_ + 16);
    copy_row_ = threadIdx.x / kSegments;
    const int segment = threadIdx.x % kSegments;
    copy_column_ = segment * 8;
    copy_offset_ = copy_row_ * kPitch + ((segment ^ ((copy_row_ & 1) << 2)) << 4);
  }

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
    if (kGrouped && threadIdx.x == 0) ticket_ = atomicAdd(job_.groups.tickets, 1);
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
    Fragments from = fragments(warp, lane, 0);
    int tiles = 0;
    cp_async_wait<kStages - 1>();
    __syncthreads();
    while (item < total_) {
      if (chunk == 0) {
        if (pass == 0) current = decode(item);
        const int left = min(current.count - pass * Shape::kTokens, Shape::kTokens);
        tiles = (left + 7) / 8;
        from = fragments(warp, lane, left);
        clear(acc);
      }
      multiply(acc, tiles, base_ + slot * stage_bytes_, from);

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
    if (kGrouped) give_tickets_back();
  }

 private:
  // ---- items ----

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

  // The last block to end leaves the counters as it found them.
  __device__ void give_tickets_back() {
    if (threadIdx.x != 0) return;
    int* tickets = job_.groups.tickets;
    __threadfence();
    if (atomicAdd(tickets + 1, 1) == static_cast<int>(gridDim.x) - 1) {
      tickets[0] = 0;
      tickets[1] = 0;
    }
  }

  // ---- loading ----

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
        if (load_index_ < total_) ticket_ = atomicAdd(job_.groups.tickets, 1);
      }
    } else {
      load_index_ += gridDim.x;
    }
    if (load_index_ < total_) begin_load();
  }

  // ---- computing ----

  // Where a lane's fragments lie in a stage.
  struct Fragments {
    uint32_t a;
    uint32_t b;
    uint32_t b_last;  // of the last tile of tokens
  };

  // Lanes past the last of `tokens` read the last one: their columns are never stored.
  __device__ static Fragments fragments(int warp, int lane, int tokens) {
    const uint32_t g = lane / 4;
    const uint32_t column = (warp % kSplit) * (8 * kSteps) + (lane % 4);
    const uint32_t token = max(min((tokens - 1) / 8 * 8 + lane / 4, tokens - 1), 0);
    return {((warp / kSplit) * 16 + g) * kPitch + ((column ^ ((g & 1) << 2)) << 4),
            Shape::kWeightBytes + g * kPitch + ((column ^ ((g & 1) << 2)) << 4),
            Shape::kWeightBytes + token * kPitch + ((column ^ ((token & 1) << 2)) << 4)};
  }

  __device__ __forceinline__ static void clear(Sums& acc) {
#pragma unroll
    for (int j = 0; j < kTiles * kChains; ++j) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
  }

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
    const Fragments from = fragments(warp, lane, job_.tokens);
    Sums acc;
    clear(acc);
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
    for (int s = 0; s < chunks_; ++s) multiply(acc, 1, base_ + s * stage_bytes_, from);
    store(acc, 1, decode(item), 0, warp, lane);
  }

  template <int kUsed>
  __device__ __forceinline__ static void multiply_tiles(Sums& acc, uint32_t a, uint32_t b,
                                                        uint32_t b_last) {
#pragma unroll
    for (int part = 0; part < 2 * kSteps; ++part) {  // of 32 columns
      const int flip = part % 2 * 64;  // bit 6 of the swizzled address
      const int step = part / 2 * 128;
      const uint4 low = load_shared_16((a ^ flip) + step);
      const uint4 high = load_shared_16((a ^ flip) + step + 8 * kPitch);
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int j = 0; j < kUsed; ++j) {
        const uint32_t row = j == kUsed - 1 ? b_last : b + j * (8 * kPitch);
        const uint4 v = load_shared_16((row ^ flip) + step);
        const uint32_t b_first[2] = {v.x, v.y};
        const uint32_t b_second[2] = {v.z, v.w};
        mma_m16n8k16(acc[j * kChains + 2 * part % kChains], first, b_first);
        mma_m16n8k16(acc[j * kChains + (2 * part + 1) % kChains], second, b_second);
      }
    }
  }

  __device__ __forceinline__ static void multiply(Sums& acc, int tiles, uint32_t stage,
                                                  const Fragments& from) {
    const uint32_t a = stage + from.a, b = stage + from.b, b_last = stage + from.b_last;
    if constexpr (kTiles == 1) {
      multiply_tiles<1>(acc, a, b, b_last);
    } else {
      switch (tiles) {
        case 0: break;
        case 1: multiply_tiles<1>(acc, a, b, b_last); break;
        case 2: multiply_tiles<2>(acc, a, b, b_last); break;
        case 3: multiply_tiles<3>(acc, a, b, b_last); break;
        case 4: multiply_tiles<4>(acc, a, b, b_last); break;
        default:
          if constexpr (kTiles == 8) {
            switch (tiles) {
              case 5: multiply_tiles<5>(acc, a, b, b_last); break;
              case 6: multiply_tiles<6>(acc, a, b, b_last); break;
              case 7: multiply_tiles<7>(acc, a, b, b_last); break;
              default: multiply_tiles<8>(acc, a, b, b_last); break;
            }
          }
      }
    }
  }

  __device__ void store(Sums& acc, int tiles, const StreamItem& item, int pass, int warp,
                        int lane) {
#pragma unroll
    for (int step = kChains / 2; step > 0; step /= 2) {  // one tile's
#pragma unroll
      for (int c = 0; c < step; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[c][i] += acc[c + step][i];
      }
    }
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

  const StreamJob& job_;
  const uint32_t base_;
  const int stage_bytes_;
  const int chunks_;
  int total_ = 0;  // items of the launch

  float4* sums_;
  int* list_group_;
  int* list_start_;
  int* list_count_;
  int* queue_;
  int* warp_counts_;
  uint16_t* pairs_;

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

template <bool kGated, bool kGrouped, int kSplit, int kTiles, int kSteps = 1>
__global__ void __launch_bounds__(kStreamThreads, kSteps > 1 ? 1 : kTiles == 1 ? 3 : 2)
    weight_stream(const __grid_constant__ StreamJob job) {
  extern __shared__ __align__(128) char shared[];
  if (!(kGated && kGrouped)) pdl_trigger();  // the experts' up product does it later
  WeightStream<kGated, kGrouped, StreamShape<kSplit, kTiles, kSteps>>(job, shared).run();
}

}  // namespace ernie
