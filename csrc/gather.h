// Rows of a packed weight as numbers: the look-up of an embedding.
#pragma once
#include "packed_linear.h"

namespace lowbit {

// out (count, columns): each number is table[code] * scale (+ offset), every operation rounded once. Rows are within the weight.
void gather(const PackedLinear& w, const int64_t* rows, size_t count, float* out, int threads);

}  // namespace lowbit
