// Choosing the next tokens on the device, without a full sort and without the host.
//
// Order, per row: penalties → biases and bans → allowed tokens (mask) → temperature → min_p → top_k
// → top_p, each filter relative to what the one before left → draw. Log-probabilities are those of
// the raw logits. A row's result depends on that row alone, to the bit.
#pragma once

#include <cstdint>

#include "ernie/tensor.h"

namespace ernie {

constexpr int kMaxTopLogprobs = 20;

// What one row wants; 64 bytes, uploaded as u8 [R, 64].
struct SamplingRow {
  float temperature;  // 0: the most likely token, the lowest id among equals
  float top_p;        // 1: off
  float min_p;        // 0: off
  float repetition;   // 1: off; of prompt and output
  float frequency;    // 0: off; of the output
  float presence;     // 0: off; of the output
  int32_t top_k;      // 0: off
  int32_t mask_row;   // row of the mask, -1: everything is allowed
  int32_t seat;       // row of counts, prompt_seen and latest, -1: none
  int32_t num_top;    // most likely tokens to report, 0 … 20; -1: no log-probabilities at all
  uint64_t key[2];    // of the random stream
  int32_t position;   // place in the answer = number in the stream; < 0: a padding row
  int32_t place;      // where among `results` the result goes, -1: nowhere
};
static_assert(sizeof(SamplingRow) == 64, "uploaded as bytes");

enum class SamplingStatus : int32_t {
  kOk = 0,
  kNotFinite = 1,  // NaN, +inf or nothing but -inf among the logits
  kNoneLeft = 2,   // the mask, biases and bans leave no token
};

// One row's result; 176 bytes, i32 [R, 44]. Token 0 where the status is not kOk, and in padding.
// Every byte is written at most once, the first 16 together: it may be memory of the host.
struct SamplingResult {
  int32_t token;
  int32_t status;
  float logprob;    // of the token, natural logarithm
  int32_t num_top;  // tokens of probability 0 are left out
  int32_t top_ids[kMaxTopLogprobs];
  float top_logprobs[kMaxTopLogprobs];
};
static_assert(sizeof(SamplingResult) == 176, "read back as bytes");

// All optional parts may be undefined.
struct SamplingTables {
  Tensor mask;          // i32 [M, ceil(V / 32)]: bit i of word w allows token 32 w + i
  Tensor bias_offsets;  // i32 [R + 1]: where each row's biases begin in the next two
  Tensor bias_ids;      // i32 [B]: ids beyond the vocabulary are passed over
  Tensor bias_values;   // f32 [B]: added; -inf bans
  Tensor counts;        // u16 [seats, V]: how often the output has each token; updated
  Tensor prompt_seen;   // i32 [seats, ceil(V / 32)]: bits of the prompt's tokens
  Tensor latest;        // i32 [seats]: the sampled token goes here too
};

// logits f32 or bf16 [R, V], rows u8 [R, 64] → i32 [R, 44]. Ids from num_valid on are padding of the
// vocabulary and never chosen. counts changes only for rows that have a penalty. Without `spread`,
// and before sm_90, a row is the work of one block instead of eight; the results are the same.
// `results` i32 [P, 44] (may be undefined) are what is written to and returned: each row's result at
// its `place`, which no other row may have, and what no row has as its place stays as it is.
Tensor sample(const Tensor& logits, const Tensor& rows, const SamplingTables& tables,
              int64_t num_valid, bool spread = true, const Tensor& results = Tensor());

}  // namespace ernie
