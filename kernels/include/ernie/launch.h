// Kernel launches: checked, with the dynamic shared limit raised and the PDL attribute set.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "ernie/check.h"
#include "ernie/context.h"

namespace ernie {

// Launches blocks in clusters of `cluster` neighbours along x (sm_90); see launch below.
template <class... P, class... A>
void launch_clusters(Context& context, unsigned cluster, void (*kernel)(P...), dim3 grid,
                     dim3 block, size_t shared_bytes, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "the kernel takes another number of arguments");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const void* function = reinterpret_cast<const void*>(kernel);
  context.allow_shared_bytes(function, shared_bytes);
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (context.pdl()) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = context.stream();
  config.attrs = attributes;
  config.numAttrs = count;
  ERNIE_CUDA(cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(arguments))...));
}

// Launches on the context's stream. A grid with an extent of 0 launches nothing. Arguments are
// converted to the kernel's parameter types. The kernel must keep the rules of ernie/pdl.cuh.
template <class... P, class... A>
void launch(Context& context, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            A&&... arguments) {
  launch_clusters(context, 1, kernel, grid, block, shared_bytes, std::forward<A>(arguments)...);
}

}  // namespace ernie
