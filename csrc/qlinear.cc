#include "qlinear.h"

#include <algorithm>

#include "many_rows.h"
#include "scratch.h"
#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

// Memory of a thread that calls, kept for the next call.
void* scratch(size_t nbytes) {
  static thread_local Scratch own;
  return own.room(nbytes);
}

constexpr size_t TASK_BYTES = 1 << 16;  // of codes, about

using Input = void (*)(const PackedLinear&, const float*, size_t, void*);
using Tiles = void (*)(const PackedLinear&, const void*, size_t, size_t, size_t, float*, size_t, const float*);

void product(const PackedLinear& w, const float* x, size_t m, float* y, const float* bias, int threads, size_t nbytes, Input prepare, Tiles multiply) {
  const size_t tiles = tiles_of(w), tile_bytes = w.groups * words_of_group(w) * 4;
  const size_t step = (std::max<size_t>(TASK_BYTES / tile_bytes, 1) + 3) / 4 * 4;  // tiles are multiplied four at a time
  for (size_t i = 0; i < m; i += MOST_ROWS) {
    const size_t n = std::min(MOST_ROWS, m - i);
    void* input = scratch(nbytes);
    prepare(w, x + i * w.columns, n, input);
    parallel((tiles + step - 1) / step, threads, [&](size_t task) {
      multiply(w, input, n, task * step, std::min(tiles, (task + 1) * step), y + i * w.rows, w.rows, bias);
    });
  }
}

}  // namespace

size_t input_nbytes(const PackedLinear& w, size_t m) { return target().linear_input_nbytes(w, std::min(m, MOST_ROWS)); }
void prepare_input(const PackedLinear& w, const float* x, size_t m, void* input) { target().linear_input(w, x, m, input); }
void multiply_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  target().linear_tiles(w, input, m, first, last, y, stride, bias);
}
void qlinear(const PackedLinear& w, const float* x, size_t m, float* y, const float* bias, int threads) {
  if (const Gemm* gemm = many_rows_kernel(w, m, FLOAT32_SUMS))
    return multiply_many_rows(*gemm, w, x, FLOAT32, m, y, bias, threads);
  product(w, x, m, y, bias, threads, input_nbytes(w, m), target().linear_input, target().linear_tiles);
}

size_t int8_input_nbytes(const PackedLinear& w, size_t m) { return target().linear8_input_nbytes(w, std::min(m, MOST_ROWS)); }
void prepare_int8_input(const PackedLinear& w, const float* x, size_t m, void* input) { target().linear8_input(w, x, m, input); }
void multiply_int8_tiles(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, float* y, size_t stride, const float* bias) {
  target().linear8_tiles(w, input, m, first, last, y, stride, bias);
}
void qlinear_int8(const PackedLinear& w, const float* x, size_t m, float* y, const float* bias, int threads) {
  if (const Gemm* gemm = many_rows_kernel(w, m, INT8_SUMS))
    return multiply_many_rows(*gemm, w, x, FLOAT32, m, y, bias, threads);
  product(w, x, m, y, bias, threads, int8_input_nbytes(w, m), target().linear8_input, target().linear8_tiles);
}

uint32_t read_all(const void* data, size_t nbytes) { return target().read_memory(data, nbytes); }

}  // namespace lowbit
