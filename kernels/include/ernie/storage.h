// The memory behind tensors: a block of a pool, or memory lent by another library.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "ernie/context.h"
#include "ernie/pool.h"

namespace ernie {

class Storage {
 public:
  Storage(std::shared_ptr<Context> context, std::shared_ptr<Pool> pool, Pool::Block* block)
      : context_(std::move(context)),
        pool_(std::move(pool)),
        block_(block),
        data_(Pool::address(block)) {}

  // `release` gives the memory back to its owner; the stream's work is awaited first.
  Storage(std::shared_ptr<Context> context, void* data, std::function<void()> release)
      : context_(std::move(context)), data_(data), release_(std::move(release)) {}

  ~Storage() {
    if (block_ != nullptr) pool_->release(block_);
    if (release_) {
      if (!context_->is_capturing()) cudaStreamSynchronize(context_->stream());
      release_();
    }
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  const std::shared_ptr<Context>& context() const { return context_; }

 private:
  std::shared_ptr<Context> context_;
  std::shared_ptr<Pool> pool_;
  Pool::Block* block_ = nullptr;
  void* data_;
  std::function<void()> release_;
};

}  // namespace ernie
