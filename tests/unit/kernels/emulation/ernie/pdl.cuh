// Blocks run one after another: there is nothing to wait for.
#pragma once

namespace ernie {

inline void pdl_wait() {}
inline void pdl_trigger() {}

}  // namespace ernie
