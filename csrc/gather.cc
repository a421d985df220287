#include "gather.h"

#include <algorithm>

#include "select.h"
#include "threads.h"

namespace lowbit {
namespace {

float number_of(const Target& t, const PerBlock& b, size_t at, size_t row) {
  float x = 0.0f;
  if (b.store == STORE_FLOAT32) return ((const float*)b.data)[at];
  if (b.store == STORE_BYTE) {
    const uint32_t bits = (uint32_t)((const uint8_t*)b.data)[at] << b.shift;
    __builtin_memcpy(&x, &bits, 4);
    return x * b.factor[row];
  }
  t.read(b.data, b.store == STORE_BFLOAT16 ? BFLOAT16 : FLOAT16, at, &x, 1);
  return x;
}

void decode_row(const Target& t, const PackedLinear& w, size_t row, float* out) {
  const size_t tile = row / TILE_ROWS, lane = row % TILE_ROWS, codes = codes_of(w.bits), words = words_of(w.bits);
  const uint32_t mask = (1u << w.bits) - 1;
  for (size_t g = 0; g < w.groups; g++) {
    const size_t at = (tile * w.groups + g) * TILE_ROWS + lane, first = g * w.group, last = std::min(w.columns, first + w.group);
    const uint32_t* group = w.codes + (tile * w.groups + g) * words_of_group(w) + lane;
    const float scale = number_of(t, w.scale, at, row), offset = w.offset.data ? number_of(t, w.offset, at, row) : 0.0f;
    for (size_t c = first; c < last; c++) {
      const size_t i = c - first, bit = i % codes * w.bits;
      const uint32_t* word = group + (i / codes * words + bit / 32) * TILE_ROWS;
      uint64_t both = word[0];
      if (bit % 32 + w.bits > 32) both |= (uint64_t)word[TILE_ROWS] << 32;
      const float y = w.table[(uint32_t)(both >> bit % 32) & mask] * scale;
      out[c] = w.offset.data ? y + offset : y;
    }
  }
}

}  // namespace

void gather(const PackedLinear& w, const int64_t* rows, size_t count, float* out, int threads) {
  const Target& t = target();
  parallel(count, count < 8 ? 1 : threads, [&](size_t i) { decode_row(t, w, (size_t)rows[i], out + i * w.columns); });
}

}  // namespace lowbit
