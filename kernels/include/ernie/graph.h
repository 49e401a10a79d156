// A stretch of the context's work, recorded once and launched as a whole many times.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "ernie/context.h"
#include "ernie/pool.h"

namespace ernie {

// begin() … end() records instead of running; launch() runs what was recorded, on the memory it was
// recorded with. Tensors made meanwhile come from the graph's own pool, which eager work never
// draws from. Tensors made before and used inside must outlive the graph.
class Graph {
 public:
  // With `sharing`, memory that is idle in that graph's pool serves this one too: right when the
  // two are never needed at once, that is, when results of one are read before the other runs.
  Graph(std::shared_ptr<Context> context, const Graph* sharing);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void begin();
  void end();      // throws when something inside could not be captured
  void discard();  // gives up what was recorded since begin()
  void launch();
  size_t pool_bytes() const { return pool_->reserved_bytes(); }
  size_t num_nodes() const { return num_nodes_; }

 private:
  cudaError_t stop(cudaGraph_t* graph);

  std::shared_ptr<Context> context_;
  std::shared_ptr<Pool> pool_;
  std::shared_ptr<Pool> eager_pool_;
  cudaGraphExec_t executable_ = nullptr;
  size_t num_nodes_ = 0;
  bool is_recording_ = false;
};

}  // namespace ernie
