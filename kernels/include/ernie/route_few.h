// The router's launch for a few text tokens: a decode step of one sequence has nothing else to hide
// its latency.
#pragma once

#include "ernie/context.h"
#include "ernie/route.cuh"

namespace ernie {

// Writes all of the job's results and returns true if the kernel for few tokens takes these sizes.
bool route_few(Context& context, const RouteJob& job);

}  // namespace ernie
