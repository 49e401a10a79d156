// Runs ernie/sampling_rows.cuh on the CPU, one cluster (or block) at a time. Standard input, little
// endian: ten int32 numbers (the members of Case), then the arrays in the order of main(), results as
// they are before. Standard output: results, counts and latest tokens as they are afterwards.
#include <unistd.h>

#include <cuda_bf16.h>

#include "ernie/sampling_rows.cuh"

namespace {

using ernie::RowShared;
using ernie::SamplingRow;

struct Case {
  int32_t in_cluster, workers, rows, vocabulary, valid, is_bf16, masks, biases, seats, has_counts;
};

void read_all(void* to, size_t bytes) {
  for (char* at = static_cast<char*>(to); bytes > 0;) {
    const ssize_t count = read(0, at, bytes);
    if (count <= 0) emulator::stop("the case is too short");
    at += count;
    bytes -= static_cast<size_t>(count);
  }
}

// An array of the case, at a multiple of 16 bytes; none if it is empty.
template <class T>
class Array {
 public:
  explicit Array(size_t size) : bytes_(size * sizeof(T)), values_((bytes_ + 15) / 16) {
    read_all(values_.data(), bytes_);
  }
  T* get() { return bytes_ > 0 ? reinterpret_cast<T*>(values_.data()) : nullptr; }
  void write() const {
    const char* at = reinterpret_cast<const char*>(values_.data());
    for (size_t done = 0; done < bytes_;) {
      const ssize_t count = ::write(1, at + done, bytes_ - done);
      if (count <= 0) emulator::stop("the results cannot be written");
      done += static_cast<size_t>(count);
    }
  }

 private:
  struct alignas(16) Sixteen {
    char bytes[16];
  };
  size_t bytes_;
  std::vector<Sixteen> values_;
};

template <int kCluster>
void run(ernie::SamplingArguments a, int workers) {
  const int share = ((a.num_valid + kCluster - 1) / kCluster + 3) / 4 * 4;
  a.block_values = share;
  a.vectors = kCluster > 1 ? ernie::kSamplingVectors
                           : (share / 4 + ernie::kSamplingThreads - 1) / ernie::kSamplingThreads;
  const size_t buffers = kCluster > 1 ? ernie::sampling_buffer_bytes(share) : 0;
  const auto whole = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  const size_t state = whole(buffers), rows = state + whole(sizeof(RowShared<kCluster>));
  const size_t barriers = rows + 2 * sizeof(SamplingRow), all = whole(barriers + 16);
  std::vector<float> scratch(kCluster > 1 ? 0 : workers * ernie::kSamplingThreads * a.vectors * 4);
  a.scratch = scratch.data();
  emulator::grid.x = workers * kCluster;
  for (int worker = 0; worker < workers; ++worker) {
    emulator::block.x = worker * kCluster;
    emulator::barriers.clear();
    emulator::shared.assign(all * kCluster, static_cast<char>(0xff));
    emulator::run_clusters(1, kCluster, ernie::kSamplingThreads, [&] {
      char* shared = emulator::shared_of(emulator::own_block());
      ernie::sample_rows(a, reinterpret_cast<float*>(shared),
                         *reinterpret_cast<RowShared<kCluster>*>(shared + state),
                         reinterpret_cast<SamplingRow*>(shared + rows),
                         reinterpret_cast<uint64_t*>(shared + barriers));
    });
  }
}

}  // namespace

int main() {
  Case one;
  read_all(&one, sizeof one);
  const size_t rows = one.rows, vocabulary = one.vocabulary, words = (vocabulary + 31) / 32;
  const size_t counted = one.has_counts ? one.seats : 0;
  Array<char> logits(rows * vocabulary * (one.is_bf16 ? 2 : 4));
  Array<SamplingRow> settings(rows);
  Array<int32_t> mask(one.masks * words);
  Array<int32_t> bias_offsets(one.biases > 0 ? rows + 1 : 0), bias_ids(one.biases);
  Array<float> bias_values(one.biases);
  Array<uint16_t> counts(counted * vocabulary);
  Array<int32_t> prompt_seen(counted * words), latest(one.seats);
  Array<ernie::SamplingResult> results(rows);
  ernie::SamplingArguments a{};
  a.logits = logits.get();
  a.rows = settings.get();
  a.results = results.get();
  a.num_places = -1;
  a.mask = mask.get();
  a.bias_offsets = bias_offsets.get();
  a.bias_ids = bias_ids.get();
  a.bias_values = bias_values.get();
  a.counts = counts.get();
  a.prompt_seen = prompt_seen.get();
  a.latest = latest.get();
  a.logits_stride = one.vocabulary;
  a.num_rows = one.rows;
  a.num_valid = one.valid;
  a.vocabulary = one.vocabulary;
  a.mask_words = static_cast<int>(words);
  a.num_masks = one.masks;
  a.num_seats = one.seats;
  a.logits_are_bf16 = one.is_bf16 != 0;
  a.by_copies = one.in_cluster && !one.is_bf16 && one.vocabulary % 4 == 0;
  if (one.in_cluster) {
    run<ernie::kSamplingCluster>(a, one.workers);
  } else {
    run<1>(a, one.workers);
  }
  results.write();
  counts.write();
  latest.write();
}
