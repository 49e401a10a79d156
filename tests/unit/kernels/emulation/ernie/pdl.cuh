// The kernel before is what a driver says of it until a thread has waited: emulator::Thread.
#pragma once

namespace ernie {

inline void pdl_wait() { emulator::self().has_waited = true; }
inline void pdl_trigger() {}

}  // namespace ernie
