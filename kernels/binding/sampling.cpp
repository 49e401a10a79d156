// Sampling.
#include "ernie/sampling.h"

#include "ernie/bindings.h"
#include "ernie/philox.h"

void bind_sampling(py::module_& module) {
  using ernie::Tensor;
  module.def(
      "sample",
      [](const Tensor& logits, const Tensor& rows, std::optional<int64_t> num_valid,
         const OptionalTensor& mask, const OptionalTensor& bias_offsets,
         const OptionalTensor& bias_ids, const OptionalTensor& bias_values,
         const OptionalTensor& counts, const OptionalTensor& prompt_seen,
         const OptionalTensor& latest, bool spread, const OptionalTensor& results) {
        const ernie::SamplingTables tables{or_none(mask),        or_none(bias_offsets),
                                           or_none(bias_ids),    or_none(bias_values),
                                           or_none(counts),      or_none(prompt_seen),
                                           or_none(latest)};
        return ernie::sample(logits, rows, tables,
                             num_valid ? *num_valid : logits.defined() && logits.dim() == 2 ? logits.size(1) : 0,
                             spread, or_none(results));
      },
      py::arg("logits"), py::arg("rows"), py::arg("num_valid") = py::none(),
      py::arg("mask") = py::none(), py::arg("bias_offsets") = py::none(),
      py::arg("bias_ids") = py::none(), py::arg("bias_values") = py::none(),
      py::arg("counts") = py::none(), py::arg("prompt_seen") = py::none(),
      py::arg("latest") = py::none(), py::arg("spread") = true, py::arg("results") = py::none(),
      "Next tokens of logits f32 or bf16 [R, V]: i32 [R, 44], to be read as kernels.sampling.RESULT.\n\n"
      "rows u8 [R, 64] are kernels.sampling.ROW. Ids from num_valid on are never chosen. mask i32\n"
      "[M, ceil(V / 32)] has a bit per allowed token; row r's biases are the entries bias_offsets[r] …\n"
      "bias_offsets[r + 1] of bias_ids i32 and bias_values f32 (-inf bans). counts u16 [seats, V] and\n"
      "prompt_seen i32 [seats, ceil(V / 32)] are what penalties look at; counts and latest i32 [seats]\n"
      "are updated with the sampled tokens. Everything is read on the device: a captured call can be\n"
      "replayed with other contents. spread=False has one block work on a row instead of eight.\n\n"
      "results i32 [P, 44], which may be memory of the host (Context.host_array), is what is written\n"
      "to and returned: each row's result at its `place`, no two at the same; the rest stays.");
  module.def("philox_raw", &ernie::philox_raw, py::arg("key0"), py::arg("key1"), py::arg("position"),
             "The 64 random bits that `sample` draws with; what numpy's Philox gives.");
  module.attr("SAMPLING_ROW_BYTES") = sizeof(ernie::SamplingRow);
  module.attr("SAMPLING_RESULT_BYTES") = sizeof(ernie::SamplingResult);
  module.attr("MAX_TOP_LOGPROBS") = ernie::kMaxTopLogprobs;
}
