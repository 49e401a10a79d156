#include "ernie/pool.h"

#include <algorithm>
#include <string>

#include "ernie/check.h"

namespace ernie {

namespace {

constexpr size_t kAlignment = 512;
constexpr size_t kSmallLimit = size_t{1} << 20;     // requests up to here share small segments
constexpr size_t kSmallSegment = size_t{2} << 20;
constexpr size_t kLargeSegment = size_t{32} << 20;
constexpr size_t kLargeGranularity = size_t{2} << 20;

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Allocation touches no stream, so it is harmless while one is captured; the runtime has to be told.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

// Blocks of one segment form a chain in address order.
struct Pool::Block {
  char* data;
  size_t bytes;
  bool small;
  bool used = false;
  Block* left = nullptr;
  Block* right = nullptr;
  std::list<std::unique_ptr<Block>>::iterator place = {};
};

bool Pool::BySize::operator()(const Block* a, const Block* b) const {
  return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
}

Pool::Pool(int device, Segments segments) : device_(device), segments_(segments) {}

Pool::~Pool() {
  for (const auto& block : blocks_) {
    // Errors mean that the driver is shutting down, which frees everything.
    if (block->left == nullptr) cudaFree(block->data);
  }
}

void* Pool::address(const Block* block) { return block->data; }

Pool::Block* Pool::allocate(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  bytes = round_up(std::max<size_t>(bytes, 1), kAlignment);
  const bool small = bytes <= kSmallLimit;
  Idle& idle = idle_[small];
  Block wanted{nullptr, bytes, small};
  const auto found = idle.lower_bound(&wanted);
  Block* block;
  if (found != idle.end()) {
    block = *found;
    idle.erase(found);
  } else {
    block = new_segment(bytes, small);
  }
  split(block, bytes);
  block->used = true;
  used_bytes_ += block->bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  return block;
}

void Pool::release(Block* block) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  used_bytes_ -= block->bytes;
  block->used = false;
  if (block->right != nullptr && !block->right->used) {
    idle_[block->small].erase(block->right);
    block = join(block, block->right);
  }
  if (block->left != nullptr && !block->left->used) {
    idle_[block->small].erase(block->left);
    block = join(block->left, block);
  }
  idle_[block->small].insert(block);
}

// What is left over becomes an idle block, unless it is too small to serve this list's requests.
void Pool::split(Block* block, size_t bytes) {
  const size_t rest = block->bytes - bytes;
  if (rest < (block->small ? kAlignment : kSmallLimit)) return;
  auto owned = std::make_unique<Block>(Block{block->data + bytes, rest, block->small});
  Block* other = owned.get();
  other->place = blocks_.insert(blocks_.end(), std::move(owned));
  other->left = block;
  other->right = block->right;
  if (other->right != nullptr) other->right->left = other;
  block->right = other;
  block->bytes = bytes;
  idle_[block->small].insert(other);
}

Pool::Block* Pool::join(Block* left, Block* right) {
  left->bytes += right->bytes;
  left->right = right->right;
  if (left->right != nullptr) left->right->left = left;
  blocks_.erase(right->place);
  return left;
}

Pool::Block* Pool::new_segment(size_t bytes, bool small) {
  const size_t size =
      small ? kSmallSegment : std::max(kLargeSegment, round_up(bytes, kLargeGranularity));
  auto owned = std::make_unique<Block>();
  owned->data = static_cast<char*>(device_malloc(size, bytes));
  owned->bytes = size;
  owned->small = small;
  reserved_bytes_ += size;
  Block* block = owned.get();
  block->place = blocks_.insert(blocks_.end(), std::move(owned));
  return block;
}

void* Pool::device_malloc(size_t bytes, size_t wanted) {
  const RelaxedCapture relaxed;
  void* data = nullptr;
  cudaError_t code = cudaMalloc(&data, bytes);
  if (code == cudaErrorMemoryAllocation && segments_ == Segments::kMayBeFreed) {
    cudaGetLastError();
    if (trim_locked() > 0) code = cudaMalloc(&data, bytes);
  }
  if (code == cudaSuccess) return data;
  if (code != cudaErrorMemoryAllocation) throw_cuda_error(code, "cudaMalloc");
  cudaGetLastError();
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  throw OutOfMemoryError("cudaMalloc: out of memory: asked for " + std::to_string(wanted) +
                         " bytes; device " + std::to_string(device_) + " has " +
                         std::to_string(free_bytes) + " of " + std::to_string(total_bytes) +
                         " bytes free, the pool holds " + std::to_string(reserved_bytes_) +
                         " with " + std::to_string(used_bytes_) + " in use");
}

size_t Pool::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return segments_ == Segments::kMayBeFreed ? trim_locked() : 0;
}

size_t Pool::trim_locked() {
  size_t freed = 0;
  for (Idle& idle : idle_) {
    for (auto it = idle.begin(); it != idle.end();) {
      Block* block = *it;
      if (block->left != nullptr || block->right != nullptr) {
        ++it;
        continue;
      }
      it = idle.erase(it);
      freed += block->bytes;
      cudaFree(block->data);  // waits for the device, so nothing queued still uses it
      blocks_.erase(block->place);
    }
  }
  reserved_bytes_ -= freed;
  return freed;
}

}  // namespace ernie
