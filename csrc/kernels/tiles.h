// How the kernels of linear layers walk over tiles of 16 rows, and what they share.

#if defined(__AVX512F__)
constexpr int WIDTHS[] = {1, 2, 4, 8, 16, 24};  // rows of x that are multiplied at a time
#else
constexpr int WIDTHS[] = {1, 2, 4};
#endif
constexpr int WIDEST = WIDTHS[sizeof(WIDTHS) / sizeof(int) - 1];
constexpr int VECTORS = (int)TILE_ROWS / LANES;  // that hold the rows of a tile
constexpr int FEW = 4;                           // so few rows of x wait for the weights, not for the arithmetic
constexpr size_t AHEAD = 256;                    // words of codes that are asked for early; 128 and 512 take longer
constexpr size_t FAR = 512;                      // and by how many they come to the second cache, which does not do so itself across pages
constexpr size_t AT_A_TIME = 8;                  // groups whose scales are decoded ahead; while more are, memory waits

// rows of x from `done` on that go together
LB_INLINE int width_of(size_t m, size_t done) {
  for (int width : WIDTHS)
    if ((size_t)width >= m - done) return width;
  return WIDEST;
}

// how many tiles at a time, so that enough sums are under way
constexpr int tiles_at_a_time(int width) { return LANES == 16 ? (width <= 4 ? 4 : width == 8 ? 2 : 1) : width <= 2 ? 2 : 1; }

// Asks for the memory of tiles before it is read: where a tile ends, for that of the tile `step` further.
struct Ahead {
  size_t left, jump, near = 0, far = 0;
  LB_INLINE_MEMBER Ahead(const PackedLinear& w, size_t step) : left(w.groups * words_of_group(w)), jump((step - 1) * left) {}
  LB_INLINE_MEMBER void pass(size_t words) {  // that are read next
    near = left > AHEAD ? AHEAD : AHEAD + jump;
    far = left > FAR ? FAR : FAR + jump;
    left -= words;
  }
  LB_INLINE_MEMBER void ask(const uint32_t* at) const {
    __builtin_prefetch(at + near);
    __builtin_prefetch(at + far, 0, 2);
  }
};

static float sum_of(const float* x, size_t n) {
  F sums = {};
  size_t k = 0;
  for (; k + LANES <= n; k += LANES) sums += load(x + k);
  float sum = 0;
  for (int l = 0; l < LANES; l++) sum += sums[l];
  for (; k < n; k++) sum += x[k];
  return sum;
}

// The sums of a tile, or what there is of it, to y.
LB_INLINE void put(const F* sums, const PackedLinear& w, size_t tile, float* y, const float* bias) {
  const size_t row = tile * TILE_ROWS, count = w.rows - row < TILE_ROWS ? w.rows - row : TILE_ROWS;
  if (count == TILE_ROWS) {
    for (int v = 0; v < VECTORS; v++) store(y + row + v * LANES, bias ? sums[v] + load(bias + row + v * LANES) : sums[v]);
    return;
  }
  float all_rows[TILE_ROWS];
  for (int v = 0; v < VECTORS; v++) store(all_rows + v * LANES, sums[v]);
  for (size_t k = 0; k < count; k++) y[row + k] = bias ? all_rows[k] + bias[row + k] : all_rows[k];
}

// One row of x in the order of the stored columns; what fills up groups is zero.
template <class T>
static void stored_row(const PackedLinear& w, const T* x, T* to) {
  const size_t stored = w.units * codes_of(w.bits);
  if (stored == w.group) {
    __builtin_memcpy(to, x, w.columns * sizeof(T));
    __builtin_memset((void*)(to + w.columns), 0, (w.groups * stored - w.columns) * sizeof(T));
    return;
  }
  for (size_t g = 0; g < w.groups; g++, to += stored) {
    const size_t first = g * w.group, count = first + w.group < w.columns ? w.group : w.columns - first;
    __builtin_memcpy(to, x + first, count * sizeof(T));
    __builtin_memset((void*)(to + count), 0, (stored - count) * sizeof(T));
  }
}

LB_INLINE size_t up64(size_t n) { return (n + 63) / 64 * 64; }
