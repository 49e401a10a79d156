// A tensor on the device: dtype, shape, strides and a share in its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace ernie {

class Context;
class Storage;

enum class DType : int { kBF16, kF32, kI32, kI64, kU8, kI8, kF16, kBool, kU16 };

size_t size_of(DType dtype);       // bytes of one element
const char* name_of(DType dtype);  // "bf16", "f32", …

// A value: copies share memory. The memory returns to its context's pool with the last copy.
class Tensor {
 public:
  Tensor() = default;
  // Contiguous, `offset` bytes into the storage.
  Tensor(std::shared_ptr<Storage> storage, DType dtype, std::vector<int64_t> shape,
         size_t offset = 0);
  // Any strides, in elements.
  Tensor(std::shared_ptr<Storage> storage, DType dtype, std::vector<int64_t> shape,
         std::vector<int64_t> strides, size_t offset);

  bool defined() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  int dim() const { return static_cast<int>(shape_.size()); }
  const std::vector<int64_t>& shape() const { return shape_; }
  const std::vector<int64_t>& strides() const { return strides_; }  // elements
  int64_t size(int axis) const;    // negative axes count from the end
  int64_t stride(int axis) const;  // elements
  int64_t numel() const;
  size_t nbytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  bool is_contiguous() const;
  std::string describe() const;  // "bf16 [3, 8]"

  void* data() const;  // null when numel() is 0 and nothing was allocated
  template <class T>
  T* ptr() const {
    return static_cast<T*>(data());
  }
  Context& context() const;
  const std::shared_ptr<Storage>& storage() const { return storage_; }

  // Views; the tensor must be contiguous. One extent of `view` may be -1.
  Tensor view(std::vector<int64_t> shape) const;
  Tensor view_as(DType dtype) const;                // the same bytes; the last extent changes
  Tensor slice(int64_t start, int64_t stop) const;  // of the first axis

 private:
  std::shared_ptr<Storage> storage_;
  DType dtype_ = DType::kBF16;
  std::vector<int64_t> shape_;
  std::vector<int64_t> strides_;
  size_t offset_ = 0;  // bytes
};

// Throws std::invalid_argument that names the argument, what was found and what is expected, unless
// `tensor` has this dtype and shape (-1 matches any extent), is contiguous and starts at a multiple
// of 16 bytes.
void expect(const Tensor& tensor, const char* name, DType dtype,
            std::initializer_list<int64_t> shape);

// The same, and `tensor` must belong to the context (device, stream) of `beside`.
void expect(const Tensor& tensor, const char* name, DType dtype,
            std::initializer_list<int64_t> shape, const Tensor& beside);

}  // namespace ernie
