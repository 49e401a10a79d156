#include "ernie/moe_small.h"

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/weight_stream.cuh"

namespace ernie {
namespace {

template <bool kGated, int kSplit, int kTiles, int kSteps = 1>
void run(Context& context, StreamJob& job, const ExpertTuning& tuning) {
  using Shape = StreamShape<kSplit, kTiles, kSteps>;
  const int weight_rows = kGated ? 2 * job.rows : job.rows;
  job.tiles = (weight_rows + Shape::kRows - 1) / Shape::kRows;
  size_t shared = Shape::shared_bytes(job.tokens, job.groups.pairs);
  // One block to a multiprocessor, also while the router still holds some of them: two blocks of the
  // up product must not fit, one beside a block of the down product should.
  if (kGated && tuning.blocks_per_sm == 1) {
    shared = std::max(shared, context.max_shared_bytes() / 2 + 1024);
  }
  const int items = std::min(job.groups.num_groups, job.groups.pairs) * job.tiles;
  launch(context, weight_stream<kGated, true, kSplit, kTiles, kSteps>,
         std::min(items, context.sm_count() * tuning.blocks_per_sm), kStreamThreads, shared, job);
}

// Few tokens: small tiles, because few experts are active and their tiles must spread evenly. Many:
// tall tiles, because every tile reads its expert's tokens again.
template <bool kGated>
void run_any(Context& context, StreamJob& job, const ExpertTuning& tuning) {
  int tile_rows = tuning.tile_rows;
  const bool deep = tuning.stage_kb == 32;
  if (tile_rows == 0) tile_rows = job.tokens <= 8 ? 32 : job.tokens <= 32 ? 64 : 128;
  if (job.tokens <= 8) {
    if (tile_rows == 16) return run<kGated, 8, 1>(context, job, tuning);
    if (tile_rows == 32) return run<kGated, 4, 1>(context, job, tuning);
    if (tile_rows == 64) return run<kGated, 2, 1>(context, job, tuning);
  } else if (job.tokens <= 32) {
    if (tile_rows == 32) return run<kGated, 4, 4>(context, job, tuning);
    if (tile_rows == 64) return run<kGated, 2, 4>(context, job, tuning);
    if (tile_rows == 128 && deep) return run<kGated, 1, 4, 2>(context, job, tuning);
    if (tile_rows == 128) return run<kGated, 1, 4>(context, job, tuning);
  } else {
    if (tile_rows == 64) return run<kGated, 2, 8>(context, job, tuning);
    if (tile_rows == 128 && deep) return run<kGated, 1, 8, 2>(context, job, tuning);
    if (tile_rows == 128) return run<kGated, 1, 8>(context, job, tuning);
  }
  fail("there is no tile of " + std::to_string(tile_rows) + " rows for " +
       std::to_string(job.tokens) + " tokens");
}

StreamJob make_job(Routing& routing, const Tensor& table, const char* name, int first_group,
                   int num_groups) {
  expect(table, name, DType::kBF16, {num_groups, -1, -1});
  if (first_group < 0 || num_groups < 1 || num_groups > kStreamMaxGroups ||
      first_group + num_groups > routing.num_groups()) {
    fail("groups " + std::to_string(first_group) + " + " + std::to_string(num_groups) +
         " do not lie in the routing's " + std::to_string(routing.num_groups()) +
         " (at most 256 in a call)");
  }
  const int pairs = routing.num_tokens() * routing.slots();
  if (pairs < 1 || pairs > kSmallPairs) {
    fail("the routing has " + std::to_string(pairs) + " pairs, expected 1 to " +
         std::to_string(kSmallPairs));
  }
  if (table.size(1) % 8 != 0 || table.size(2) % 8 != 0 || table.size(2) < 8 || table.size(1) < 8 ||
      table.size(1) * table.size(2) > 0xffffffffll) {
    fail(std::string(name) + " is " + table.describe() +
         ", expected rows and columns that are multiples of 8");
  }
  StreamJob job{};
  job.w = table.ptr<bf16>();
  job.tokens = routing.num_tokens();
  job.depth = static_cast<int>(table.size(2));
  StreamGroups& groups = job.groups;
  groups.offsets = routing.offsets.ptr<int>() + first_group;
  groups.order = routing.order.ptr<int>();
  groups.tickets = routing.tickets.ptr<int>();
  groups.num_groups = num_groups;
  groups.pairs = pairs;
  groups.slots = routing.slots();
  const int first = routing.num_experts;
  const int last = routing.num_experts + routing.num_shared;
  if (first >= first_group && last <= first_group + num_groups) {
    groups.first_always = first - first_group;
    groups.num_always = routing.num_shared;
  }
  return job;
}

}  // namespace

Tensor moe_up_small(const Tensor& x, Routing& routing, const Tensor& up_gate, int first_group,
                    int num_groups, const ExpertTuning& tuning) {
  StreamJob job = make_job(routing, up_gate, "up_gate", first_group, num_groups);
  expect(x, "x", DType::kBF16, {routing.num_tokens(), up_gate.size(2)});
  if (up_gate.size(1) % 16 != 0) {
    fail("up_gate has " + std::to_string(up_gate.size(1)) + " rows, expected a multiple of 16");
  }
  job.rows = static_cast<int>(up_gate.size(1) / 2);
  job.x = x.ptr<bf16>();
  Context& context = x.context();
  Tensor h = context.empty({job.groups.pairs, job.rows}, DType::kBF16);
  job.out = h.data();
  run_any<true>(context, job, tuning);
  return h;
}

void moe_down_small(const Tensor& h, Routing& routing, const Tensor& down, int first_group,
                    int num_groups, const Tensor& y, const ExpertTuning& tuning) {
  StreamJob job = make_job(routing, down, "down", first_group, num_groups);
  expect(h, "h", DType::kBF16, {job.groups.pairs, down.size(2)});
  expect(y, "y", DType::kBF16, {job.groups.pairs, down.size(1)});
  job.rows = static_cast<int>(down.size(1));
  job.x = h.ptr<bf16>();
  job.out = y.data();
  run_any<false>(h.context(), job, tuning);
}

}  // namespace ernie
