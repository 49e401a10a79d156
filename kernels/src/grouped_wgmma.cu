// Mixture-of-experts products: argument checks, the choice of kernel, and the wgmma instances.
#include "ernie/grouped.h"

#include <algorithm>

#include "ernie/moe_small.h"
#include "ernie/wgmma_product.cuh"

namespace ernie {
namespace {

// From here on the grouped products read the weights as fast as the streaming ones, whose tensor
// cores then begin to fall behind (scripts/bench_kernels.py decode:paths).
constexpr int64_t kGroupedPairs = 65;

Product grouped_product(const Routing& routing, const Tensor& x, const Tensor& w, int first_group,
                        int num_groups, int columns, void* out) {
  if (first_group < 0 || num_groups < 1 || num_groups > kMaxGroups ||
      first_group + num_groups > routing.num_groups()) {
    fail("first_group " + std::to_string(first_group) + " and num_groups " +
         std::to_string(num_groups) + " do not lie within the routing's " +
         std::to_string(routing.num_groups()) + " groups, at most " + std::to_string(kMaxGroups));
  }
  const int64_t k = x.size(1);
  if (k % 8 != 0 || columns % 8 != 0) {
    fail("the weights' sizes " + w.describe() + " must be multiples of 8");
  }
  Product p{};
  p.groups.offsets = routing.offsets.ptr<const int>() + first_group;
  p.groups.num_groups = num_groups;
  p.groups.rows = static_cast<int>(routing.order.size(0));
  p.columns = columns;
  p.k = static_cast<int>(k);
  p.x = x.ptr<const bf16>();
  p.w = w.ptr<const bf16>();
  p.order = routing.order.ptr<const int>();
  p.slots = routing.slots();
  p.out = out;
  return p;
}

template <Job kJob>
void run(Context& context, const Product& p) {
  if (p.groups.rows == 0) return;
  if (wgmma::suits(context, p.columns, p.k)) {
    wgmma::run<kJob>(context, p);
  } else {
    run_fallback(context, kJob, p);
  }
}

}  // namespace

bool moe_prefers_small(const Tensor& x, int64_t pairs, int64_t m) {
  const int narrower = static_cast<int>(std::min(m, x.size(1)));
  if (pairs > kSmallPairs) return false;
  return pairs < kGroupedPairs || !wgmma::suits(x.context(), narrower, narrower);
}

Tensor moe_up_large(const Tensor& x, const Routing& routing, const Tensor& up_gate, int first_group,
                    int num_groups) {
  expect(x, "x", DType::kBF16, {routing.num_tokens(), -1});
  expect(up_gate, "up_gate", DType::kBF16, {num_groups, -1, x.size(1)});
  if (up_gate.size(1) % 2 != 0) fail("up_gate: " + up_gate.describe() + " has an odd axis 1");
  const int m = static_cast<int>(up_gate.size(1) / 2);
  Tensor h = x.context().empty({routing.order.size(0), m}, DType::kBF16);
  run<Job::kUp>(x.context(),
                grouped_product(routing, x, up_gate, first_group, num_groups, m, h.data()));
  return h;
}

void moe_down_large(const Tensor& h, const Routing& routing, const Tensor& down, int first_group,
                    int num_groups, const Tensor& y) {
  const int64_t pairs = routing.order.size(0);
  expect(h, "h", DType::kBF16, {pairs, -1});
  expect(down, "down", DType::kBF16, {num_groups, -1, h.size(1)});
  expect(y, "y", DType::kBF16, {pairs, down.size(1)});
  run<Job::kDown>(h.context(),
                  grouped_product(routing, h, down, first_group, num_groups,
                                  static_cast<int>(down.size(1)), y.data()));
}

}  // namespace ernie
