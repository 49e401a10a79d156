#include "ernie/moe_small.h"

#include <algorithm>

#include "ernie/launch.h"
#include "ernie/weight_stream.cuh"

namespace ernie {
namespace {

template <bool kGated, class Shape>
void run(Context& context, StreamJob& job, const ExpertTuning& tuning) {
  const int weight_rows = kGated ? 2 * job.rows : job.rows;
  job.tiles = (weight_rows + Shape::kRows - 1) / Shape::kRows;
  job.evict_first = tuning.evict_first;
  size_t shared = Shape::shared_bytes(job.tokens, job.groups.pairs);
  // One block to a multiprocessor, also while the router still holds some of them.
  if (tuning.blocks_per_sm == 1) {
    shared = std::max(shared, context.max_shared_bytes() / 2 + 1024);
  }
  const int items = std::min(job.groups.num_groups, job.groups.pairs) * job.tiles;
  launch(context, weight_stream<kGated, true, Shape>,
         std::min(items, context.sm_count() * tuning.blocks_per_sm), kStreamThreads, shared, job);
}

// The deeper pipeline, unless the device has no room for it or the caller wants the other.
template <bool kGated, class Deep, class Shallow>
void run_either(Context& context, StreamJob& job, const ExpertTuning& tuning) {
  const bool fits =
      Deep::shared_bytes(job.tokens, job.groups.pairs) <= context.max_shared_bytes();
  const int stages = tuning.stages ? tuning.stages : fits ? Deep::kStages : Shallow::kStages;
  if (stages == Deep::kStages) return run<kGated, Deep>(context, job, tuning);
  if (stages == Shallow::kStages) return run<kGated, Shallow>(context, job, tuning);
  fail("there is no pipeline of " + std::to_string(stages) + " stages for " +
       std::to_string(job.tokens) + " tokens");
}

// Few tokens: small tiles, because few experts are active and their tiles must spread evenly. Many:
// tall tiles, because every tile reads its expert's tokens again.
template <bool kGated>
void run_any(Context& context, StreamJob& job, const ExpertTuning& tuning) {
  if (job.tokens <= 8) {
    run_either<kGated, StreamShape<4, 1, 10>, StreamShape<4, 1, 5>>(context, job, tuning);
  } else if (job.tokens <= 32) {
    run_either<kGated, StreamShape<2, 4, 8>, StreamShape<2, 4, 4>>(context, job, tuning);
  } else if (tuning.stage_kb == 32) {
    run<kGated, StreamShape<1, 8, 4, 2>>(context, job, tuning);
  } else {
    run_either<kGated, StreamShape<1, 8, 8>, StreamShape<1, 8, 4>>(context, job, tuning);
  }
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
