// Sums over blocks that come in runs, in the order of kernels/sums.h.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops.h"

namespace lowbit {

inline size_t up(size_t a, size_t b) { return (a + b - 1) / b; }

// of n numbers, v is overwritten
inline double total(const Target& t, std::vector<double>& v, size_t n) {
  v.resize(std::max<size_t>(up(n, PIECE), 1) * PIECE);  // a fold fills up to a power of two; no numbers sum to zero
  for (; n > PIECE; n = up(n, PIECE))
    for (size_t k = 0; k < up(n, PIECE); k++) v[k] = t.fold(&v[k * PIECE], std::min(PIECE, n - k * PIECE));
  return t.fold(v.data(), n);
}

inline float mean_scale(const ScaleRule& r, double sum, size_t width) {
  const double mean = sum / (double)width;
  if (!std::isfinite(mean)) return std::numeric_limits<float>::quiet_NaN();
  return (float)std::min(r.factor * mean, (double)std::numeric_limits<float>::max());
}

// Sums over blocks of `width` numbers, of which the runs that come begin at a block or a multiple of PIECE from its begin.
struct BlockSums {
  const Target& t;
  size_t width, per_block;
  std::vector<double>& pieces;
  BlockSums(const Target& target, size_t block_width, size_t count, std::vector<double>& room)
      : t(target), width(block_width), per_block(up(block_width, PIECE)), pieces(room) {
    pieces.assign(count * per_block, 0.0);
  }
  // numbers from..from + n - 1, counted from the first block
  void add(const float* x, const float* y, size_t from, size_t n) {
    if (width <= PIECE) return t.sums(x, y, n, width, &pieces[from / width]);
    for (size_t m; n; x += m, y += y ? m : 0, from += m, n -= m) {
      const size_t inside = from % width;
      m = std::min(n, width - inside);
      t.sums(x, y, m, PIECE, &pieces[from / width * per_block + inside / PIECE]);
    }
  }
  double sum(size_t block) const {
    if (per_block == 1) return pieces[block];
    std::vector<double> own(pieces.begin() + block * per_block, pieces.begin() + (block + 1) * per_block);
    return total(t, own, per_block);
  }
};

}  // namespace lowbit
