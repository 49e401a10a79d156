// Blocks run one after another: there is nothing to wait for.
#pragma once

namespace ernie {

inline void pdl_wait() { emulator::self().has_waited = true; }
inline void pdl_trigger() {}

}  // namespace ernie
