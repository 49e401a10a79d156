#include "ernie/graph.h"

#include "ernie/check.h"

namespace ernie {

Graph::Graph(std::shared_ptr<Context> context, const Graph* sharing)
    : context_(std::move(context)),
      pool_(sharing != nullptr
                ? sharing->pool_
                : std::make_shared<Pool>(context_->device(), Pool::Segments::kKept)) {
  if (sharing != nullptr && sharing->context_ != context_) {
    fail("capture: the graph to share memory with belongs to another context");
  }
}

Graph::~Graph() {
  if (is_recording_) discard();
  if (executable_ == nullptr) return;
  cudaStreamSynchronize(context_->stream());
  cudaGraphExecDestroy(executable_);
}

void Graph::begin() {
  if (executable_ != nullptr || is_recording_) fail("capture: a graph is recorded once");
  if (context_->is_capturing()) fail("capture: another graph is being recorded");
  context_->activate();
  ERNIE_CUDA(cudaStreamBeginCapture(context_->stream(), cudaStreamCaptureModeThreadLocal));
  eager_pool_ = context_->exchange_pool(pool_);
  context_->set_capturing(true);
  is_recording_ = true;
}

cudaError_t Graph::stop(cudaGraph_t* graph) {
  is_recording_ = false;
  context_->set_capturing(false);
  context_->exchange_pool(std::move(eager_pool_));
  return cudaStreamEndCapture(context_->stream(), graph);
}

void Graph::end() {
  if (!is_recording_) fail("capture: nothing is being recorded");
  cudaGraph_t graph = nullptr;
  cudaError_t code = stop(&graph);
  if (code != cudaSuccess) throw_cuda_error(code, "cudaStreamEndCapture");
  code = cudaGraphGetNodes(graph, nullptr, &num_nodes_);
  if (code == cudaSuccess) code = cudaGraphInstantiate(&executable_, graph, 0);
  cudaGraphDestroy(graph);
  if (code != cudaSuccess) throw_cuda_error(code, "cudaGraphInstantiate");
  ERNIE_CUDA(cudaGraphUpload(executable_, context_->stream()));
}

void Graph::discard() {
  cudaGraph_t graph = nullptr;
  stop(&graph);
  cudaGetLastError();
  if (graph != nullptr) cudaGraphDestroy(graph);
}

void Graph::launch() {
  if (executable_ == nullptr) fail("launch: the graph was not recorded");
  context_->activate();
  ERNIE_CUDA(cudaGraphLaunch(executable_, context_->stream()));
}

}  // namespace ernie
