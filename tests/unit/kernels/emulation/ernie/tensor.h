// Headers that a kernel shares with the host name tensors; kernels take pointers.
#pragma once

namespace ernie {

class Tensor {};

}  // namespace ernie
