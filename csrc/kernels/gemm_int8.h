// Many rows of x in int8: bytes of whole numbers in a panel, exact sums of each group, rescaled as kernels/linear_int8.h does it.

// A row of bytes in the order in which codes come, see `ordered`.
template <int QUARTER>
static void ordered_row(const int8_t* q, size_t n, int8_t* to) {
  size_t k = 0;
#if defined(__SSSE3__)
  const __m128i order = QUARTER == 2 ? _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)
                                     : _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (; k + 16 <= n; k += 16) _mm_storeu_si128((__m128i*)(to + k), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(q + k)), order));
#endif
  ordered<QUARTER>(q + k, n - k, to + k);
}

// A row of x as bytes in the order of the panel (see `ordered`), its sums of groups, its scale.
struct ByteRows {
  float* row;
  int8_t *q, *filled;
  static size_t nbytes(const PackedLinear& w) { return up64(4 * w.columns) + up64(w.columns) + up64(columns_of(w)); }
  ByteRows(const PackedLinear& w, void* room)
      : row((float*)room), q((int8_t*)room + up64(4 * w.columns)), filled(q + up64(w.columns)) {}
  // sums lie `stride` apart, group by group
  float quantize(const PackedLinear& w, const void* x, int32_t type, size_t at, int8_t* to, int32_t* sums, size_t stride) const {
    const size_t stored = w.units * codes_of(w.bits);
    read(x, type, at * w.columns, row, w.columns);
    const float scale = quantize_row(row, w.columns, q);
    stored_row(w, q, filled);
    for (size_t g = 0; g < w.groups; g++) {
      int32_t sum = 0;
      for (size_t k = 0; k < stored; k++) sum += filled[g * stored + k];
      sums[g * stride] = sum;
    }
    const size_t n = columns_of(w);
    w.bits == 8 ? (void)__builtin_memcpy(to, filled, n) : w.bits == 4 ? ordered_row<2>(filled, n, to) : ordered_row<4>(filled, n, to);
    return scale;
  }
};

// What each group adds to a product apart from its bytes: [group][row of x] of -zero * (sum of x) to start from and, for offsets, the sum as
// float32; then the scale of each row of x. Lies behind the rows.
struct RowSums {
  int32_t* start;
  float *sum, *scale;
  static size_t nbytes(const PackedLinear& w, size_t m) { return up64(4 * w.groups * m) * (w.offset.data ? 2 : 1) + up64(4 * m); }
  RowSums(const PackedLinear& w, size_t m, void* at)
      : start((int32_t*)at),
        sum((float*)((char*)at + (w.offset.data ? up64(4 * w.groups * m) : 0))),
        scale((float*)((char*)sum + up64(4 * w.groups * m))) {}
  // sums of row i, written by `quantize`, to what kernels read
  void finish(const PackedLinear& w, size_t m, size_t i) const {
    for (size_t g = 0; g < w.groups; g++) {
      const int32_t s = start[g * m + i];
      if (w.offset.data) sum[g * m + i] = (float)s;
      start[g * m + i] = -w.zero * s;
    }
  }
};

// A block of columns of a panel as bytes: [four columns][PANEL][4].
template <int BITS>
static void decode_bytes(const PackedLinear& w, size_t tile, size_t first, size_t last, uint32_t* panel) {
  constexpr int QUARTER = 8 / BITS;
  const Wholes<BITS> wholes(w);
  for (int t = 0; t < PANEL_TILES; t++) {
    const uint32_t* codes = codes_from(w, tile + t, first);
    uint32_t* to = panel + t * TILE_ROWS;
    for (size_t u = first; u < last; u++, codes += TILE_ROWS, to += QUARTER * PANEL)
#pragma GCC unroll 4
      for (size_t v = 0; v < TILE_ROWS; v += LANES) {
        const U word = load(codes + v);
#pragma GCC unroll 4
        for (int j = 0; j < QUARTER; j++) store(to + j * PANEL + v, wholes.bytes(word, j));
      }
  }
}

static void decode_bytes(const PackedLinear& w, size_t tile, size_t first, size_t last, uint32_t* panel) {
  if (w.bits == 2) decode_bytes<2>(w, tile, first, last, panel);
  if (w.bits == 4) decode_bytes<4>(w, tile, first, last, panel);
  if (w.bits == 8) decode_bytes<8>(w, tile, first, last, panel);
}

namespace int8_gemm {

// Input: block by block of columns, in each HIGH rows of x side by side, [four columns][row]; then RowSums.
static size_t input_nbytes(const PackedLinear& w, size_t m) { return up64(columns_of(w) * m) + RowSums::nbytes(w, m); }

// Room of a thread: a panel, its scales, sums as integers and as float32; or rows of x on their way.
static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 1);
  const size_t multiplying = PANEL * (blocks.widest() + 8 * TOGETHER_PANELS * m) + PanelScales::nbytes(w, blocks);
  const size_t preparing = ByteRows::nbytes(w) + HIGH * up64(columns_of(w));
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 1);
  const size_t columns = up64(columns_of(w));
  const ByteRows bytes(w, room);
  int8_t* rows = (int8_t*)room + ByteRows::nbytes(w);
  const RowSums sums(w, m, (char*)input + up64(columns_of(w) * m));
  for (size_t done = first; done < last; done += HIGH) {
    const size_t n = last - done < (size_t)HIGH ? last - done : HIGH;
    for (size_t i = 0; i < n; i++) {
      sums.scale[done + i] = bytes.quantize(w, x, type, done + i, rows + i * columns, sums.start + done + i, m);
      sums.finish(w, m, done + i);
    }
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t from = blocks.first(b) * blocks.columns, to = blocks.last(b) * blocks.columns;
      int8_t* p = (int8_t*)input + from * m + done * (to - from);
      for (size_t k = from; k < to; k += 4)
        for (size_t i = 0; i < n; i++, p += 4) __builtin_memcpy(p, rows + i * columns + k, 4);
    }
  }
}

// What stays the same for all rows of x.
struct Block {
  const PackedLinear& w;
  const uint32_t* panel;
  const PanelScales& scales;
  const RowSums& sums;
  size_t m, first, last;
};

// `M` rows of x from row `at` on: whole groups go to `total`, those that go on in the next block wait in `part`.
template <int M>
static void multiply_rows(const Block& b, const int32_t* x, size_t at, int32_t* part, float* total) {
  const uint32_t* panel = b.panel;
  const size_t words = codes_of(b.w.bits) / 4;
  each_group(b.w, b.first, b.last, [&](size_t u, size_t end, size_t g) {
    I sum[M][ACROSS];
    const bool starts = u == g * b.w.units, ends = end == (g + 1) * b.w.units;
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
      for (int t = 0; t < ACROSS; t++)
        sum[i][t] = starts ? (I)all((uint32_t)b.sums.start[g * b.m + at + i]) : (I)load((const uint32_t*)part + i * PANEL + t * LANES);
    for (size_t k = (end - u) * words; k > 0; k--, panel += PANEL, x += M) {
      U bytes[ACROSS];
      for (int t = 0; t < ACROSS; t++) bytes[t] = load(panel + t * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < ACROSS; t++) sum[i][t] = dot4(sum[i][t], bytes[t], x + i);
    }
    if (!ends) {
      for (int i = 0; i < M; i++)
        for (int t = 0; t < ACROSS; t++) store((uint32_t*)part + i * PANEL + t * LANES, (U)sum[i][t]);
      return;
    }
    const float *scale = b.scales.scales(g), *offset = b.scales.offsets(g);
#pragma GCC unroll 8
    for (int t = 0; t < ACROSS; t++) {
      const F s = load(scale + t * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) {
        float* to = total + i * PANEL + t * LANES;
        store(to, load(to) + __builtin_convertvector(sum[i][t], F) * s);
      }
    }
    if (b.w.offset.data)
      for (int i = 0; i < M; i++)
        for (int t = 0; t < ACROSS; t++) {
          float* to = total + i * PANEL + t * LANES;
          store(to, load(to) + load(offset + t * LANES) * all(b.sums.sum[g * b.m + at + i]));
        }
  });
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Blocks blocks(w, 1);
  uint32_t* panel = (uint32_t*)room;
  float* totals = (float*)room + blocks.widest() / 4 * PANEL;
  int32_t* parts = (int32_t*)totals + TOGETHER_PANELS * m * PANEL;
  PanelScales scales(w, blocks, parts + TOGETHER_PANELS * m * PANEL);
  const RowSums sums(w, m, (char*)input + up64(columns_of(w) * m));
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * m * PANEL);
  each_panel(w, blocks, first, last,
    [&](size_t, size_t tile, size_t b) {
      scales.read(w, tile, blocks.first(b), blocks.last(b), w.unit);
      decode_bytes(w, tile, blocks.first(b), blocks.last(b), panel);
    },
    [&](size_t p, size_t, size_t b, const auto& fetch) {
      const Block block = {w, panel, scales, sums, m, blocks.first(b), blocks.last(b)};
      const size_t columns = (block.last - block.first) * blocks.columns;
      const int8_t* x = (const int8_t*)input + block.first * blocks.columns * m;
      for (size_t done = 0; done < m; done += HIGH) {
        const size_t at = (p * m + done) * PANEL;
        fetch(done / HIGH, (m + HIGH - 1) / HIGH);
        with_height<HIGH>(m - done, [&](auto height) {
          multiply_rows<decltype(height)::value>(block, (const int32_t*)(x + done * columns), done, parts + at, totals + at);
        });
      }
    });
  put_panels(w, totals, sums.scale, m, m, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"panels of int8", PANEL_TILES, TOGETHER_PANELS, HIGH, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace int8_gemm
