// The router's launches for many tokens. All scratch comes from the context's pool.
#pragma once

#include "ernie/context.h"
#include "ernie/route.cuh"

namespace ernie {

// Writes ids, weights and zero tickets, for any number of tokens.
void route_logits_and_choice(Context& context, const RouteJob& job);

// Writes order and offsets from the ids, for any number of pairs.
void route_sort_many(Context& context, const RouteJob& job);

}  // namespace ernie
