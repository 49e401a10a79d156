// Runs ernie/weight_stream.cuh on the CPU. Each input line is a case; its output line holds the
// relative errors against float64.
// Stages are 16 KB, or 32 KB where 16 tiles are asked for (of which there are 8 then).
//   dense gated split tiles tokens rows depth grid                     → one error
//   experts split tiles tokens E S Ev top_k m H grid skewed            → errors of up and of down
#include <iostream>
#include <random>
#include <string>

#include "ernie/weight_stream.cuh"

namespace {

using ernie::bf16;
using ernie::StreamJob;
using Rows = std::vector<bf16>;

std::mt19937 generator(7);

Rows random_rows(size_t count, float scale = 1.f) {
  std::normal_distribution<float> normal(0.f, scale);
  Rows rows(count);
  for (bf16& value : rows) value = __float2bfloat16_rn(normal(generator));
  return rows;
}

Rows poison(size_t count) { return Rows(count, bf16{0xffff}); }

double dot(const bf16* a, const bf16* b, int depth) {
  double sum = 0;
  for (int k = 0; k < depth; ++k) sum += double(__bfloat162float(a[k])) * __bfloat162float(b[k]);
  return sum;
}

double swiglu(const bf16* x, const bf16* table, int row, int rows, int depth) {
  const double gate = dot(x, table + size_t(row) * depth, depth);
  return gate / (1 + std::exp(-gate)) * dot(x, table + size_t(rows + row) * depth, depth);
}

struct Error {
  double difference = 0, norm = 0;
  void add(double found, double exact) {
    difference += (found - exact) * (found - exact);
    norm += exact * exact;
  }
  double relative() const { return std::sqrt(difference / norm); }
};

template <bool kGated, bool kGrouped, int kSplit, int kTiles, int kSteps = 1>
void launch(StreamJob job, int grid) {
  using Shape = ernie::StreamShape<kSplit, kTiles, kSteps>;
  const int weight_rows = kGated ? 2 * job.rows : job.rows;
  job.tiles = (weight_rows + Shape::kRows - 1) / Shape::kRows;
  emulator::grid.x = grid;
  for (int b = 0; b < grid; ++b) {
    emulator::block.x = b;
    emulator::shared.assign(Shape::shared_bytes(job.tokens, kGrouped ? job.groups.pairs : 0),
                            static_cast<char>(0xff));
    emulator::run_block(ernie::kStreamThreads, [&] {
      ernie::WeightStream<kGated, kGrouped, Shape>(job, emulator::shared.data()).run();
    });
  }
}

template <bool kGated, bool kGrouped>
void launch_shape(int split, int tiles, const StreamJob& job, int grid) {
  const auto is = [&](int s, int t) { return split == s && tiles == t; };
  if (is(8, 1)) return launch<kGated, kGrouped, 8, 1>(job, grid);
  if (is(4, 1)) return launch<kGated, kGrouped, 4, 1>(job, grid);
  if (is(4, 4)) return launch<kGated, kGrouped, 4, 4>(job, grid);
  if (is(2, 4)) return launch<kGated, kGrouped, 2, 4>(job, grid);
  if (is(2, 8)) return launch<kGated, kGrouped, 2, 8>(job, grid);
  if (is(1, 16)) return launch<kGated, kGrouped, 1, 8, 2>(job, grid);
  if (is(1, 8)) return launch<kGated, kGrouped, 1, 8>(job, grid);
  emulator::stop("no such shape");
}

void run_dense(std::istream& in) {
  bool gated;
  int split, tiles, tokens, rows, depth, grid;
  in >> gated >> split >> tiles >> tokens >> rows >> depth >> grid;
  const Rows x = random_rows(size_t(tokens) * depth);
  const Rows w = random_rows(size_t(gated ? 2 : 1) * rows * depth);
  const Rows bias = random_rows(rows), residual = random_rows(size_t(tokens) * rows);
  Rows rounded = poison(size_t(tokens) * rows);
  std::vector<float> sums(size_t(tokens) * rows, NAN);
  StreamJob job{};
  job.x = x.data(), job.w = w.data();
  job.tokens = tokens, job.rows = rows, job.depth = depth;
  if (gated) {
    job.out = rounded.data();
    launch_shape<true, false>(split, tiles, job, grid);
  } else {
    job.out = sums.data(), job.float_out = true;
    job.bias = bias.data(), job.residual = residual.data();
    launch_shape<false, false>(split, tiles, job, grid);
  }
  Error error;
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < rows; ++r) {
      const size_t i = size_t(t) * rows + r;
      const bf16* row = x.data() + size_t(t) * depth;
      if (gated) {
        error.add(__bfloat162float(rounded[i]), swiglu(row, w.data(), r, rows, depth));
      } else {
        error.add(sums[i], dot(row, w.data() + size_t(r) * depth, depth) +
                               __bfloat162float(bias[r]) + __bfloat162float(residual[i]));
      }
    }
  }
  std::cout << error.relative() << std::endl;
}

void run_experts(std::istream& in) {
  int split, tiles, tokens, experts, shared, vision, top_k, m, hidden, grid;
  bool skewed;
  in >> split >> tiles >> tokens >> experts >> shared >> vision >> top_k >> m >> hidden >> grid >>
      skewed;
  const int text = experts + shared, groups = text + vision, slots = top_k + shared;
  const int pairs = tokens * slots;
  std::vector<int> ids, order, offsets;
  for (int t = 0; t < tokens; ++t) {
    const bool is_vision = vision > 0 && generator() % 2;
    std::vector<int> choice(is_vision ? vision : experts);
    for (size_t e = 0; e < choice.size(); ++e) choice[e] = (is_vision ? text : 0) + int(e);
    if (!skewed) std::shuffle(choice.begin(), choice.end(), generator);
    ids.insert(ids.end(), choice.begin(), choice.begin() + top_k);
    for (int s = 0; s < shared; ++s) ids.push_back(experts + s);
  }
  for (int g = 0; g <= groups; ++g) {
    offsets.push_back(static_cast<int>(order.size()));
    for (int p = 0; p < pairs; ++p) {
      if (ids[p] == g) order.push_back(p);
    }
  }
  const Rows x = random_rows(size_t(tokens) * hidden);
  Rows h = poison(size_t(pairs) * m), y = poison(size_t(pairs) * hidden);
  std::vector<int> tickets(2, 0);
  Error up_error, down_error;
  for (const bool second : {false, true}) {
    const int first = second ? text : 0, count = second ? vision : text;
    if (count == 0) continue;
    const Rows up = random_rows(size_t(count) * 2 * m * hidden, 1.f / std::sqrt(float(hidden)));
    const Rows down = random_rows(size_t(count) * hidden * m);
    StreamJob job{};
    job.x = x.data(), job.w = up.data(), job.out = h.data();
    job.tokens = tokens, job.rows = m, job.depth = hidden;
    job.groups = {offsets.data() + first, order.data(), tickets.data(), count, pairs, slots,
                  second ? 0 : experts,   second ? 0 : shared};
    launch_shape<true, true>(split, tiles, job, grid);
    job.x = h.data(), job.w = down.data(), job.out = y.data();
    job.rows = hidden, job.depth = m;
    launch_shape<false, true>(split, tiles, job, grid);
    if (tickets[0] != 0 || tickets[1] != 0) emulator::stop("tickets are left");
    for (int i = offsets[first]; i < offsets[first + count]; ++i) {
      const int pair = order[i], expert = ids[pair] - first;
      const bf16* row = x.data() + size_t(pair / slots) * hidden;
      for (int r = 0; r < m; ++r) {
        up_error.add(__bfloat162float(h[size_t(i) * m + r]),
                     swiglu(row, up.data() + size_t(expert) * 2 * m * hidden, r, m, hidden));
      }
      for (int r = 0; r < hidden; ++r) {
        down_error.add(__bfloat162float(y[size_t(pair) * hidden + r]),
                       dot(h.data() + size_t(i) * m,
                           down.data() + (size_t(expert) * hidden + r) * m, m));
      }
    }
  }
  std::cout << up_error.relative() << " " << down_error.relative() << std::endl;
}

}  // namespace

int main() {
  std::string kind;
  while (std::cin >> kind) kind == "dense" ? run_dense(std::cin) : run_experts(std::cin);
}
