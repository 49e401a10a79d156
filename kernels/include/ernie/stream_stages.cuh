// The stages in shared memory, and how many chunks of columns pass through them.
#pragma once

#include "ernie/mma.cuh"
#include "ernie/stream_job.cuh"

namespace ernie {

template <class Shape>
class StreamStages {
 protected:
  __device__ StreamStages(const StreamJob& job, char* shared)
      : job_(job),
        base_(shared_address(shared)),
        stage_bytes_(Shape::kWeightBytes + min(job.tokens, Shape::kTokens) * Shape::kPitch),
        chunks_((job.depth + Shape::kDepth - 1) / Shape::kDepth) {}

  const StreamJob& job_;
  const uint32_t base_;
  const int stage_bytes_;
  const int chunks_;
};

}  // namespace ernie
