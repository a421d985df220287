#include "many_rows.h"

#include <algorithm>

#include "scratch.h"
#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

constexpr size_t MOST = 512;  // rows of x that are prepared together

Scratch& of_call() {
  static thread_local Scratch own;
  return own;
}

Scratch& of_thread() {
  static thread_local Scratch own;
  return own;
}

size_t size_of(int32_t type) { return type == FLOAT32 ? 4 : 2; }

}  // namespace

const Gemm* many_rows_kernel(const PackedLinear& w, size_t m, Arithmetic arithmetic) {
  const Gemm* found = target().gemm(w, arithmetic);
  if (!found && arithmetic == BFLOAT16_SUMS) found = target().gemm(w, FLOAT32_SUMS);
  return found && m >= found->least ? found : nullptr;
}

void multiply_many_rows(const Gemm& gemm, const PackedLinear& w, const void* x, int32_t type, size_t rows, void* y, const float* bias, int threads) {
  const size_t turns = (rows + MOST - 1) / MOST, share = ((rows + turns - 1) / turns + gemm.rows - 1) / gemm.rows * gemm.rows;
  // panels that go together read x once; a few tasks a thread level out
  const size_t tiles = tiles_of(w), panels = (tiles + gemm.tiles - 1) / gemm.tiles, tasks = 3 * (size_t)std::max(threads, 1);
  const size_t step = gemm.tiles * std::clamp<size_t>(panels / tasks, 1, gemm.panels);
  for (size_t done = 0; done < rows; done += share) {
    const size_t m = std::min(share, rows - done), parts = (m + gemm.rows - 1) / gemm.rows;
    const void* from = (const char*)x + done * w.columns * size_of(type);
    void *to = (char*)y + done * w.rows * size_of(type), *input = of_call().room(gemm.input_nbytes(w, m));
    const size_t nbytes = gemm.room_nbytes(w, m);
    parallel(parts, threads, [&](size_t k) {
      gemm.prepare(w, from, type, m, k * gemm.rows, std::min(m, (k + 1) * gemm.rows), input, of_thread().room(nbytes));
    });
    parallel((tiles + step - 1) / step, threads, [&](size_t k) {
      gemm.multiply(w, input, m, k * step, std::min(tiles, (k + 1) * step), of_thread().room(nbytes), to, type, w.rows, bias);
    });
  }
}

}  // namespace lowbit
