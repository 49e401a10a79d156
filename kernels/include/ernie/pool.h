// Device memory kept for reuse: best fit among idle blocks, split when too large, joined when idle.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace ernie {

class Pool {
 public:
  struct Block;

  // A pool whose segments captured graphs refer to must keep them until it dies itself.
  enum class Segments { kMayBeFreed, kKept };

  Pool(int device, Segments segments);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // At least `bytes`, aligned to 512. When the device is full, idle segments are given back first;
  // then throws OutOfMemoryError with the figures.
  Block* allocate(size_t bytes);
  void release(Block* block) noexcept;
  static void* address(const Block* block);

  size_t trim();  // frees idle segments; returns their bytes
  size_t reserved_bytes() const { return reserved_bytes_; }  // taken from the device
  size_t used_bytes() const { return used_bytes_; }          // handed out
  size_t peak_bytes() const { return peak_bytes_; }          // most ever handed out at once
  void reset_peak() { peak_bytes_ = used_bytes_; }

 private:
  struct BySize {
    bool operator()(const Block* a, const Block* b) const;
  };
  using Idle = std::set<Block*, BySize>;

  Block* new_segment(size_t bytes, bool small);
  void* device_malloc(size_t bytes, size_t wanted);
  void split(Block* block, size_t bytes);
  Block* join(Block* left, Block* right);
  size_t trim_locked();

  int device_;
  Segments segments_;
  std::mutex mutex_;
  Idle idle_[2];  // large, small
  std::list<std::unique_ptr<Block>> blocks_;
  size_t reserved_bytes_ = 0;
  size_t used_bytes_ = 0;
  size_t peak_bytes_ = 0;
};

}  // namespace ernie
