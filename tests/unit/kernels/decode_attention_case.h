// A case of decode attention on the CPU: cache, queries, what the kernel before still writes, and what
// float64 makes of them. Read of a line:
//   turn (0 done, 1 neighbours, 2 halves) sequences KV_heads ratio block_size has_old_pages
//   contexts… lengths that are there while the kernel before still runs…
// With old pages, so are other pages, and numbers that are none. Where there is nothing to turn, that
// kernel writes the newest keys.
#pragma once

#include <climits>
#include <cuda_bf16.h>
#include <istream>
#include <numeric>
#include <random>

#include "ernie/decode_arguments.h"
#include "ernie/decode_instructions.cuh"
#include "ernie/split_walk.cuh"

using ernie::bf16;
using ernie::Turn;
using Row = std::vector<double>;
constexpr int kHead = ernie::kHopperHead;

// Values and what is there in their place while the kernel before still runs.
struct Racing {
  std::vector<int> values, before;
};

inline std::mt19937 generator(3);
inline Racing lengths, tables;

inline double value_of(bf16 x) { return __bfloat162float(x); }

inline bf16 random_value() {
  std::normal_distribution<float> normal;
  return __float2bfloat16_rn(normal(generator));
}

// The larger one, NaN above all.
inline double worse(double a, double b) { return b > a || std::isnan(b) ? b : a; }

inline std::vector<bf16> poison(size_t count) { return std::vector<bf16>(count, bf16{0xffff}); }

inline Row row_at(const bf16* from) {
  Row row(kHead);
  for (int d = 0; d < kHead; ++d) row[d] = value_of(from[d]);
  return row;
}

inline Row turned(Turn turn, Row row, const float* cosines, const float* sines) {
  if (turn == Turn::kDone) return row;
  for (int i = 0; i < 64; ++i) {
    double& a = row[turn == Turn::kNeighbours ? 2 * i : i];
    double& b = row[turn == Turn::kNeighbours ? 2 * i + 1 : i + 64];
    const double first = a;
    a = first * cosines[i] - b * sines[i];
    b = b * cosines[i] + first * sines[i];
  }
  for (double& x : row) x = value_of(__float2bfloat16_rn(static_cast<float>(x)));
  return row;
}

class DecodeCase {
 public:
  explicit DecodeCase(std::istream& in) {
    int turn;
    in >> turn >> p.sequences >> p.nkv >> p.ratio >> block_size_ >> has_old_pages_;
    turn_ = static_cast<Turn>(turn);
    for (std::vector<int>* all : {&lengths.values, &lengths.before}) {
      all->resize(p.sequences);
      for (int& length : *all) in >> length;
    }
    lay_out();
  }

  ernie::DecodeArguments p{};

  int block_size() const { return block_size_; }
  const std::vector<bf16>& keys() const { return keys_; }
  const std::vector<bf16>& values() const { return values_; }

  // Room for the most splits of a context, as splits_of(length) tells them, each shared by `sharing`
  // blocks.
  template <class Splits>
  void make_parts(const Splits& splits_of, int sharing) {
    int slots = 1;
    for (const int length : lengths.values) slots = std::max(slots, splits_of(length));
    const size_t heads = size_t(p.sequences) * p.nkv;
    parts_.assign(heads * slots * p.ratio * kHead, NAN);
    sums_.assign(heads * slots * sharing * p.ratio, float2{NAN, NAN});
    arrivals_.assign(heads * sharing, 0);
    p.partial_out = parts_.data(), p.partial_sum = sums_.data();
    p.arrivals = arrivals_.data(), p.split_slots = slots;
  }

  // Calls function(std::integral_constant<Turn, …>) for the case's turn.
  template <class Function>
  void with_turn(const Function& function) const {
    switch (turn_) {
      case Turn::kDone: return function(std::integral_constant<Turn, Turn::kDone>());
      case Turn::kNeighbours: return function(std::integral_constant<Turn, Turn::kNeighbours>());
      case Turn::kHalves: return function(std::integral_constant<Turn, Turn::kHalves>());
    }
  }

  // "error newest": the largest relative error of an output row, the largest difference of a newest
  // key or value in the cache.
  void report(std::ostream& out) {
    expect_newest_alone(keys_, keys_before_);
    expect_newest_alone(values_, values_before_);
    for (const int count : arrivals_) {
      if (count != 0) emulator::stop("arrivals are left");
    }
    double error = 0, newest = 0;
    for (int s = 0; s < p.sequences; ++s) {
      for (int h = 0; h < p.nkv; ++h) {
        if (turn_ != Turn::kDone && lengths.values[s] > 0) {
          newest = worse(newest, newest_error(s, h));
        }
        for (int r = 0; r < p.ratio; ++r) error = worse(error, row_error(s, h, r));
      }
    }
    out << error << ' ' << newest << std::endl;
  }

 private:
  void lay_out() {
    const auto longest = [](const std::vector<int>& all) {
      return *std::max_element(all.begin(), all.end());
    };
    width_ = std::max(longest(lengths.values), longest(lengths.before)) / block_size_ + 2;
    const int pages = p.sequences * width_ + 1;
    tables.values.resize(size_t(p.sequences) * width_);
    std::iota(tables.values.begin(), tables.values.end(), 1);
    std::shuffle(tables.values.begin(), tables.values.end(), generator);
    tables.before = tables.values;
    if (has_old_pages_) {
      for (int& page : tables.before) {
        const int wild[] = {page, page, page, -1, pages, INT_MAX, page % (pages - 1) + 1};
        page = wild[generator() % std::size(wild)];
      }
    }
    keys_ = values_ = poison(size_t(pages) * p.nkv * block_size_ * kHead);
    const int old = turn_ == Turn::kDone ? 0 : 1;  // the newest one is the kernel's to write
    for (int s = 0; s < p.sequences; ++s) {
      for (int h = 0; h < p.nkv; ++h) {
        for (int key = 0; key < lengths.values[s] - old; ++key) {
          for (int d = 0; d < kHead; ++d) {
            keys_[at(s, h, key) + d] = random_value();
            values_[at(s, h, key) + d] = random_value();
          }
        }
      }
    }
    p.q_stride = (p.nkv * p.ratio + (turn_ == Turn::kDone ? 0 : 2 * p.nkv)) * kHead;
    qkv_.resize(size_t(p.sequences) * p.q_stride);
    for (bf16& x : qkv_) x = random_value();
    cosines_.resize(size_t(p.sequences) * 64);
    sines_.resize(cosines_.size());
    for (size_t i = 0; i < cosines_.size(); ++i) {
      const float angle = 3 * __bfloat162float(random_value());
      cosines_[i] = std::cos(angle);
      sines_[i] = std::sin(angle);
    }
    emulator::is_racing = [&](const void* from) {
      const auto is_in = [&](const std::vector<bf16>& cache) {
        return from >= cache.data() && from < cache.data() + cache.size();
      };
      return turn_ == Turn::kDone && (is_in(keys_) || is_in(values_));
    };
    keys_before_ = keys_, values_before_ = values_;
    out_ = poison(size_t(p.sequences) * p.nkv * p.ratio * kHead);
    p.q = qkv_.data(), p.out = out_.data();
    p.k_cache = keys_.data(), p.v_cache = values_.data(), p.num_pages = pages;
    p.cosines = cosines_.data(), p.sines = sines_.data();
    p.block_tables = tables.values.data(), p.table_width = width_;
    p.tiles_per_page = block_size_ / 16;
    p.context_lens = lengths.values.data();
    p.scale = 1.4426950408889634f / std::sqrt(float(kHead));
  }

  // Stops if anything else than the newest rows is not as it was.
  void expect_newest_alone(const std::vector<bf16>& now, std::vector<bf16>& before) const {
    for (int s = 0; turn_ != Turn::kDone && s < p.sequences; ++s) {
      for (int h = 0; lengths.values[s] > 0 && h < p.nkv; ++h) {
        const size_t newest = at(s, h, lengths.values[s] - 1);
        std::copy_n(now.data() + newest, kHead, before.data() + newest);
      }
    }
    if (std::memcmp(now.data(), before.data(), now.size() * sizeof(bf16)) != 0) {
      emulator::stop("the cache is changed where no newest row is");
    }
  }

  size_t at(int s, int h, int key) const {
    const size_t page = tables.values[size_t(s) * width_ + key / block_size_];
    return ((page * p.nkv + h) * block_size_ + key % block_size_) * kHead;
  }

  Row turned_row(int s, int head) const {
    return turned(turn_, row_at(qkv_.data() + size_t(s) * p.q_stride + head * kHead),
                  cosines_.data() + s * 64, sines_.data() + s * 64);
  }

  double newest_error(int s, int h) const {
    const Row key = turned_row(s, p.nkv * p.ratio + h);
    const bf16* value = qkv_.data() + size_t(s) * p.q_stride +
                        (p.nkv * p.ratio + p.nkv + h) * kHead;
    double worst = 0;
    for (int d = 0; d < kHead; ++d) {
      const size_t place = at(s, h, lengths.values[s] - 1) + d;
      const double apart = std::abs(value_of(keys_[place]) - key[d]) +
                           std::abs(value_of(values_[place]) - value_of(value[d]));
      worst = worse(worst, apart);
    }
    return worst;
  }

  double row_error(int s, int h, int r) const {
    const Row q = turned_row(s, h * p.ratio + r);
    Row weights(lengths.values[s]);
    double top = -INFINITY, total = 0;
    for (int key = 0; key < lengths.values[s]; ++key) {
      for (int d = 0; d < kHead; ++d) {
        weights[key] += q[d] * value_of(keys_[at(s, h, key) + d]);
      }
      weights[key] /= std::sqrt(double(kHead));
      top = std::max(top, weights[key]);
    }
    for (double& weight : weights) total += weight = std::exp(weight - top);
    double difference = 0, norm = 0;
    for (int d = 0; d < kHead; ++d) {
      double exact = 0;
      for (int key = 0; key < lengths.values[s]; ++key) {
        exact += weights[key] / total * value_of(values_[at(s, h, key) + d]);
      }
      const size_t place = (size_t(s) * p.nkv * p.ratio + h * p.ratio + r) * kHead + d;
      difference += std::pow(value_of(out_[place]) - exact, 2);
      norm += exact * exact;
    }
    return std::sqrt(lengths.values[s] > 0 ? difference / norm : difference);
  }

  Turn turn_;
  int block_size_, width_ = 0;
  bool has_old_pages_;
  std::vector<bf16> keys_, values_, keys_before_, values_before_, qkv_, out_;
  std::vector<float> cosines_, sines_, parts_;
  std::vector<float2> sums_;
  std::vector<int> arrivals_;
};

inline int ernie::load_racing(const int* from) {
  if (emulator::self().has_waited) return *from;
  for (const Racing* racing : {&lengths, &tables}) {
    const auto at = static_cast<size_t>(from - racing->values.data());
    if (at < racing->values.size()) return racing->before[at];
  }
  return *from;
}
