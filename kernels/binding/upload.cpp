// Uploading a checkpoint's matrices.
#include <pybind11/numpy.h>

#include "ernie/bindings.h"
#include "ernie/weight_upload.h"

namespace {

using ernie::DType;

// 2-byte unsigned integers stand for the bits of bfloat16, which NumPy has no dtype for.
DType source_dtype(const py::array& array) {
  if (array.dtype().is(py::dtype::of<uint16_t>())) return DType::kBF16;
  if (array.dtype().kind() == 'f' && array.itemsize() == 2) return DType::kF16;
  if (array.dtype().kind() == 'f' && array.itemsize() == 4) return DType::kF32;
  if (array.dtype().kind() == 'u' && array.itemsize() == 2) return DType::kBF16;
  ernie::fail("source is " + py::str(array.dtype()).cast<std::string>() +
              "; expected uint16 (bfloat16 bits), float16 or float32");
}

void place(ernie::WeightUploader& uploader, const ernie::Tensor& target, int64_t offset,
           int64_t row_stride, const py::array& source, bool transposed) {
  if (source.ndim() != 2) ernie::fail("source has " + std::to_string(source.ndim()) + " axes; expected 2");
  if (!(source.flags() & py::array::c_style)) ernie::fail("source is not contiguous");
  const DType dtype = source_dtype(source);
  const void* data = source.data();
  const int64_t rows = source.shape(0), columns = source.shape(1);
  py::gil_scoped_release release;
  uploader.place(target, offset, row_stride, data, dtype, rows, columns, transposed);
}

}  // namespace

void bind_upload(py::module_& module) {
  py::class_<ernie::WeightUploader>(module, "WeightUploader")
      .def(py::init<std::shared_ptr<ernie::Context>, size_t, int>(), py::arg("context"),
           py::arg("buffer_bytes"), py::arg("threads"))
      .def("place", &place, py::arg("target"), py::arg("offset"), py::arg("row_stride"),
           py::arg("source"), py::arg("transposed"));
}
