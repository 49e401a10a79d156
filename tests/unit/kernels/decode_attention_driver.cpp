// Runs ernie/decode_block.cuh on the CPU. Each input line is a case:
//   turn (0 done, 1 neighbours, 2 halves) sequences KV_heads ratio block_size blocks log_rounds
//   contexts… lengths that are there while the kernel before still runs…
// Its output line: the largest relative error of an output row against float64, the largest
// difference of a newest key or value in the cache.
#include <cuda_bf16.h>

#include <iostream>
#include <numeric>
#include <random>

#include "ernie/decode_block.cuh"

namespace {

using ernie::bf16;
using ernie::Turn;
using Row = std::vector<double>;
namespace stream = ernie::decode_stream;

std::mt19937 generator(3);
std::vector<int> lengths, lengths_before;

double value_of(bf16 x) { return __bfloat162float(x); }

bf16 random_value() {
  std::normal_distribution<float> normal;
  return __float2bfloat16_rn(normal(generator));
}

// The larger one, NaN above all.
double worse(double a, double b) { return b <= a ? a : b; }

std::vector<bf16> poison(size_t count) { return std::vector<bf16>(count, bf16{0xffff}); }

Row row_at(const bf16* from) {
  Row row(stream::kHead);
  for (int d = 0; d < stream::kHead; ++d) row[d] = value_of(from[d]);
  return row;
}

Row turned(Turn turn, Row row, const float* cosines, const float* sines) {
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

class Case {
 public:
  Case(std::istream& in, Turn turn) : turn_(turn) {
    in >> sequences_ >> nkv_ >> ratio_ >> block_size_ >> blocks_ >> shape_.log_rounds;
    lengths.resize(sequences_);
    lengths_before.resize(sequences_);
    for (int& length : lengths) in >> length;
    for (int& length : lengths_before) in >> length;
    lay_out();
  }

  template <Turn kTurn>
  void run() {
    emulator::grid.x = blocks_;
    for (int b = 0; b < blocks_; ++b) {
      emulator::block.x = b;
      emulator::barriers.clear();
      emulator::named_barriers.clear();
      emulator::shared.assign(shape_.bytes(ratio_), static_cast<char>(0xff));
      emulator::run_block(stream::kThreads, [&] {
        stream::run_block<kTurn>(p_, shape_, maps_, emulator::shared.data());
      });
      if (!emulator::flying.empty()) emulator::stop("a copy that nobody waits for");
    }
    for (const int count : arrivals_) {
      if (count != 0) emulator::stop("arrivals are left");
    }
  }

  void report() {
    double error = 0, newest = 0;
    for (int s = 0; s < sequences_; ++s) {
      for (int h = 0; h < nkv_; ++h) {
        if (turn_ != Turn::kDone && lengths[s] > 0) {
          newest = worse(newest, newest_error(s, h));
        }
        for (int r = 0; r < ratio_; ++r) {
          error = worse(error, row_error(s, h, r));
        }
      }
    }
    std::cout << error << ' ' << newest << std::endl;
  }

 private:
  void lay_out() {
    const int longest = std::max(*std::max_element(lengths.begin(), lengths.end()),
                                 *std::max_element(lengths_before.begin(), lengths_before.end()));
    width_ = longest / block_size_ + 2;
    const int pages = sequences_ * width_ + 1;
    tables_.resize(size_t(sequences_) * width_);
    std::iota(tables_.begin(), tables_.end(), 1);
    std::shuffle(tables_.begin(), tables_.end(), generator);
    keys_ = values_ = poison(size_t(pages) * nkv_ * block_size_ * stream::kHead);
    const int old = turn_ == Turn::kDone ? 0 : 1;  // the newest one is the kernel's to write
    for (int s = 0; s < sequences_; ++s) {
      for (int h = 0; h < nkv_; ++h) {
        for (int key = 0; key < lengths[s] - old; ++key) {
          for (int d = 0; d < stream::kHead; ++d) {
            keys_[at(s, h, key) + d] = random_value();
            values_[at(s, h, key) + d] = random_value();
          }
        }
      }
    }
    stride_ = (nkv_ * ratio_ + (turn_ == Turn::kDone ? 0 : 2 * nkv_)) * stream::kHead;
    qkv_.resize(size_t(sequences_) * stride_);
    for (bf16& x : qkv_) x = random_value();
    cosines_.resize(size_t(sequences_) * 64);
    sines_.resize(cosines_.size());
    for (size_t i = 0; i < cosines_.size(); ++i) {
      const float angle = 3 * __bfloat162float(random_value());
      cosines_[i] = std::cos(angle);
      sines_[i] = std::sin(angle);
    }

    shape_.rule = {6, 9, 8};
    int slots = 1;
    for (const int length : lengths) slots = std::max(slots, shape_.rule.splits(length));
    const size_t heads = size_t(sequences_) * nkv_;
    out_ = poison(heads * ratio_ * stream::kHead);
    parts_.assign(heads * slots * ratio_ * stream::kHead, NAN);
    sums_.assign(heads * slots * ratio_, float2{NAN, NAN});
    arrivals_.assign(heads, 0);
    p_.q = qkv_.data(), p_.q_stride = stride_;
    p_.k_cache = keys_.data(), p_.v_cache = values_.data(), p_.num_pages = pages;
    p_.cosines = cosines_.data(), p_.sines = sines_.data();
    p_.block_tables = tables_.data(), p_.table_width = width_;
    p_.tiles_per_page = block_size_ / 16;
    p_.context_lens = lengths.data();
    p_.out = out_.data(), p_.partial_out = parts_.data(), p_.partial_sum = sums_.data();
    p_.arrivals = arrivals_.data(), p_.split_slots = slots;
    p_.sequences = sequences_, p_.nkv = nkv_, p_.ratio = ratio_;
    p_.scale = 1.4426950408889634f / std::sqrt(float(stream::kHead));
    shape_.box_rows = std::gcd(block_size_, stream::kTile);
    shape_.tail_rows = 16;
    shape_.paired = blocks_ % 2 == 0;
    const int64_t rows = int64_t(pages) * nkv_ * block_size_;
    const auto map = [&](const std::vector<bf16>& cache, int box_rows) {
      return CUtensorMap{cache.data(), rows, stream::kHead, box_rows};
    };
    maps_ = {map(keys_, shape_.box_rows), map(values_, shape_.box_rows),
             map(keys_, shape_.tail_rows), map(values_, shape_.tail_rows)};
  }

  size_t at(int s, int h, int key) const {
    const size_t page = tables_[size_t(s) * width_ + key / block_size_];
    return ((page * nkv_ + h) * block_size_ + key % block_size_) * stream::kHead;
  }

  Row turned_row(int s, int head) const {
    return turned(turn_, row_at(qkv_.data() + size_t(s) * stride_ + head * stream::kHead),
                  cosines_.data() + s * 64, sines_.data() + s * 64);
  }

  double newest_error(int s, int h) const {
    const Row key = turned_row(s, nkv_ * ratio_ + h);
    const bf16* value = qkv_.data() + size_t(s) * stride_ +
                        (nkv_ * ratio_ + nkv_ + h) * stream::kHead;
    double worst = 0;
    for (int d = 0; d < stream::kHead; ++d) {
      const size_t place = at(s, h, lengths[s] - 1) + d;
      const double apart = std::abs(value_of(keys_[place]) - key[d]) +
                           std::abs(value_of(values_[place]) - value_of(value[d]));
      worst = worse(worst, apart);
    }
    return worst;
  }

  double row_error(int s, int h, int r) const {
    const Row q = turned_row(s, h * ratio_ + r);
    Row weights(lengths[s]);
    double top = -INFINITY, total = 0;
    for (int key = 0; key < lengths[s]; ++key) {
      for (int d = 0; d < stream::kHead; ++d) {
        weights[key] += q[d] * value_of(keys_[at(s, h, key) + d]);
      }
      weights[key] /= std::sqrt(double(stream::kHead));
      top = std::max(top, weights[key]);
    }
    for (double& weight : weights) total += weight = std::exp(weight - top);
    double difference = 0, norm = 0;
    for (int d = 0; d < stream::kHead; ++d) {
      double exact = 0;
      for (int key = 0; key < lengths[s]; ++key) {
        exact += weights[key] / total * value_of(values_[at(s, h, key) + d]);
      }
      const size_t place = (size_t(s) * nkv_ * ratio_ + h * ratio_ + r) * stream::kHead + d;
      difference += std::pow(value_of(out_[place]) - exact, 2);
      norm += exact * exact;
    }
    return std::sqrt(lengths[s] > 0 ? difference / norm : difference);
  }

  Turn turn_;
  int sequences_, nkv_, ratio_, block_size_, blocks_;
  int width_ = 0, stride_ = 0;
  std::vector<int> tables_, arrivals_;
  std::vector<bf16> keys_, values_, qkv_, out_;
  std::vector<float> cosines_, sines_, parts_;
  std::vector<float2> sums_;
  ernie::DecodeArguments p_{};
  stream::StreamShape shape_{};
  stream::CacheMaps maps_{};
};

}  // namespace

int ernie::load_racing(const int* from) {
  const bool is_length = from >= lengths.data() && from < lengths.data() + lengths.size();
  if (!is_length || emulator::self().has_waited) return *from;
  return lengths_before[from - lengths.data()];
}

int main() {
  for (int turn; std::cin >> turn;) {
    Case one(std::cin, static_cast<Turn>(turn));
    if (turn == 0) one.run<Turn::kDone>();
    if (turn == 1) one.run<Turn::kNeighbours>();
    if (turn == 2) one.run<Turn::kHalves>();
    one.report();
  }
}
