#include "ernie/tensor.h"

#include <cstdint>

#include "ernie/check.h"
#include "ernie/context.h"
#include "ernie/storage.h"

namespace ernie {

namespace {

std::vector<int64_t> dense_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

std::string text_of(const int64_t* extents, size_t count) {
  std::string text = "[";
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) text += ", ";
    text += extents[i] < 0 ? "*" : std::to_string(extents[i]);
  }
  return text + "]";
}

}  // namespace

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kI64:
      return 8;
    case DType::kBF16:
    case DType::kF16:
    case DType::kU16:
      return 2;
    case DType::kU8:
    case DType::kI8:
    case DType::kBool:
      return 1;
  }
  fail("unknown dtype " + std::to_string(static_cast<int>(dtype)));
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bf16";
    case DType::kF32:
      return "f32";
    case DType::kI32:
      return "i32";
    case DType::kI64:
      return "i64";
    case DType::kU8:
      return "u8";
    case DType::kI8:
      return "i8";
    case DType::kF16:
      return "f16";
    case DType::kBool:
      return "bool";
    case DType::kU16:
      return "u16";
  }
  return "unknown";
}

Tensor::Tensor(std::shared_ptr<Storage> storage, DType dtype, std::vector<int64_t> shape,
               size_t offset)
    : storage_(std::move(storage)),
      dtype_(dtype),
      shape_(std::move(shape)),
      strides_(dense_strides(shape_)),
      offset_(offset) {}

Tensor::Tensor(std::shared_ptr<Storage> storage, DType dtype, std::vector<int64_t> shape,
               std::vector<int64_t> strides, size_t offset)
    : storage_(std::move(storage)),
      dtype_(dtype),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      offset_(offset) {}

int64_t Tensor::size(int axis) const {
  return shape_.at(static_cast<size_t>(axis < 0 ? axis + dim() : axis));
}

int64_t Tensor::stride(int axis) const {
  return strides_.at(static_cast<size_t>(axis < 0 ? axis + dim() : axis));
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (const int64_t extent : shape_) count *= extent;
  return count;
}

bool Tensor::is_contiguous() const {
  int64_t stride = 1;
  for (size_t i = shape_.size(); i-- > 0;) {
    if (shape_[i] != 1 && strides_[i] != stride && numel() > 0) return false;
    stride *= shape_[i];
  }
  return true;
}

std::string Tensor::describe() const {
  if (!defined()) return "no tensor";
  return std::string(name_of(dtype_)) + " " + text_of(shape_.data(), shape_.size());
}

void* Tensor::data() const {
  if (!defined() || storage_->data() == nullptr) return nullptr;
  return static_cast<char*>(storage_->data()) + offset_;
}

Context& Tensor::context() const {
  if (!defined()) fail("an empty tensor has no context");
  return *storage_->context();
}

Tensor Tensor::view(std::vector<int64_t> shape) const {
  if (!is_contiguous()) fail("view: the tensor must be contiguous");
  int64_t known = 1;
  int64_t* open = nullptr;
  for (int64_t& extent : shape) {
    if (extent >= 0) {
      known *= extent;
    } else if (extent != -1 || open != nullptr) {
      fail("view: shape " + text_of(shape.data(), shape.size()) + " has more than one open extent");
    } else {
      open = &extent;
    }
  }
  if (open != nullptr && known > 0) *open = numel() / known;
  if ((open != nullptr && known == 0) || known * (open != nullptr ? *open : 1) != numel()) {
    fail("view: " + describe() + " does not fit into " + text_of(shape.data(), shape.size()));
  }
  return Tensor(storage_, dtype_, std::move(shape), offset_);
}

Tensor Tensor::view_as(DType dtype) const {
  if (!is_contiguous() || dim() == 0) fail("view: the tensor must be contiguous with an axis");
  std::vector<int64_t> shape = shape_;
  const int64_t bytes = shape.back() * static_cast<int64_t>(size_of(dtype_));
  const int64_t width = static_cast<int64_t>(size_of(dtype));
  if (bytes % width != 0 || reinterpret_cast<uintptr_t>(data()) % width != 0) {
    fail("view: " + describe() + " cannot be read as " + name_of(dtype));
  }
  shape.back() = bytes / width;
  return Tensor(storage_, dtype, std::move(shape), offset_);
}

Tensor Tensor::slice(int64_t start, int64_t stop) const {
  if (dim() == 0) fail("slice: a scalar has no axis to slice");
  if (start < 0 || stop < start || stop > shape_[0]) {
    fail("slice: [" + std::to_string(start) + ", " + std::to_string(stop) + ") is outside of " +
         describe());
  }
  std::vector<int64_t> shape = shape_;
  shape[0] = stop - start;
  const size_t bytes = static_cast<size_t>(start * strides_[0]) * size_of(dtype_);
  return Tensor(storage_, dtype_, std::move(shape), strides_, offset_ + bytes);
}

void expect(const Tensor& tensor, const char* name, DType dtype,
            std::initializer_list<int64_t> shape) {
  const std::string wanted = std::string(name_of(dtype)) + " " + text_of(shape.begin(), shape.size());
  bool fits = tensor.defined() && tensor.dtype() == dtype &&
              tensor.shape().size() == shape.size();
  if (fits) {
    size_t axis = 0;
    for (const int64_t extent : shape) {
      fits = fits && (extent < 0 || extent == tensor.shape()[axis]);
      ++axis;
    }
  }
  if (!fits) fail(std::string(name) + ": expected " + wanted + ", found " + tensor.describe());
  if (!tensor.is_contiguous()) {
    fail(std::string(name) + ": must be contiguous; strides are " +
         text_of(tensor.strides().data(), tensor.strides().size()));
  }
  if (reinterpret_cast<uintptr_t>(tensor.data()) % 16 != 0) {
    fail(std::string(name) + ": must start at a multiple of 16 bytes");
  }
}

void expect(const Tensor& tensor, const char* name, DType dtype,
            std::initializer_list<int64_t> shape, const Tensor& beside) {
  expect(tensor, name, dtype, shape);
  if (&tensor.context() != &beside.context()) {
    fail(std::string(name) + ": belongs to another context (on device " +
         std::to_string(tensor.context().device()) + "; expected the one on device " +
         std::to_string(beside.context().device()) + ")");
  }
}

}  // namespace ernie
