// Many rows of x in bfloat16: scaled numbers of W rounded once to bfloat16 in a panel, exact products of pairs, sums in float32.

// lanes of two bfloat16 numbers, `low` in the lower half; to nearest, ties to even
LB_INLINE U pair_of(F low, F high) {
#if defined(__AVX512BF16__)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (U)_mm512_permutexvar_epi16(order, both);
#else
  return bfloat16_from_wide(low) | bfloat16_from_wide(high) << 16;
#endif
}

// sum + the two products of a lane; a number below 2**-126 counts as zero where the instruction exists
LB_INLINE F dot2(F sum, U a, const uint32_t* b) {
#if defined(__AVX512BF16__)
  return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)*b));
#else
  const U x = all(*b), upper = all(0xffff0000u);
  return fused(float_of(a << 16), float_of(x << 16), fused(float_of(a & upper), float_of(x & upper), sum));
#endif
}

// A block of columns of a panel as pairs of columns: [pair][PANEL][2].
template <class Decoder>
LB_INLINE void decode_pairs(const PackedLinear& w, const Decoder& decoder, const PanelScales& scales, size_t tile, size_t first, size_t last,
                            uint32_t* panel) {
  F low = {};
  decode_run<true>(w, decoder, scales, tile, first, last, [&](size_t column, int i, int row, F numbers) {
    if (i & 1)
      store(panel + (column + i) / 2 * PANEL + row, pair_of(low, numbers));
    else
      low = numbers;
  });
}

// A row of x as bfloat16 in the order of the stored columns.
static void bfloat16_row(const PackedLinear& w, const void* x, int32_t type, size_t at, float* wide, uint16_t* narrow, uint16_t* to) {
  if (type == BFLOAT16) return stored_row(w, (const uint16_t*)x + at * w.columns, to);
  read(x, type, at * w.columns, wide, w.columns);
  write(wide, narrow, BFLOAT16, 0, w.columns, false);
  stored_row(w, narrow, to);
}

// Rows of x on their way: one as float32 and as bfloat16, `n` in the order of the stored columns.
struct HalfRows {
  float* wide;
  uint16_t *narrow, *rows;
  size_t step;
  static size_t nbytes(const PackedLinear& w, size_t n) { return up64(4 * w.columns) + up64(2 * w.columns) + n * up64(2 * columns_of(w)); }
  HalfRows(const PackedLinear& w, void* room)
      : wide((float*)room), narrow((uint16_t*)((char*)room + up64(4 * w.columns))), rows(narrow + up64(2 * w.columns) / 2),
        step(up64(2 * columns_of(w)) / 2) {}
  void read_row(const PackedLinear& w, const void* x, int32_t type, size_t at, size_t i) const {
    bfloat16_row(w, x, type, at, wide, narrow, rows + i * step);
  }
};

namespace bf16_gemm {

// Input: block by block of columns, in each HIGH rows of x side by side, [pair of columns][row].
static size_t input_nbytes(const PackedLinear& w, size_t m) { return up64(2 * columns_of(w) * m); }

static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 2);
  const size_t multiplying = PANEL * (2 * blocks.widest() + 4 * TOGETHER_PANELS * m) + PanelScales::nbytes(w, blocks);
  const size_t preparing = HalfRows::nbytes(w, HIGH);
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 2);
  const HalfRows rows(w, room);
  for (size_t done = first; done < last; done += HIGH) {
    const size_t n = last - done < (size_t)HIGH ? last - done : HIGH;
    for (size_t i = 0; i < n; i++) rows.read_row(w, x, type, done + i, i);
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t from = blocks.first(b) * blocks.columns, to = blocks.last(b) * blocks.columns;
      uint16_t* p = (uint16_t*)input + from * m + done * (to - from);
      for (size_t k = from; k < to; k += 2)
        for (size_t i = 0; i < n; i++, p += 2) __builtin_memcpy(p, rows.rows + i * rows.step + k, 4);
    }
  }
}

template <int M>
static void multiply_rows(const uint32_t* panel, const uint32_t* x, size_t pairs, float* total) {
  F sum[M][ACROSS] = {};
  for (size_t k = 0; k < pairs; k++, panel += PANEL, x += M) {
    U numbers[ACROSS];
    for (int t = 0; t < ACROSS; t++) numbers[t] = load(panel + t * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
      for (int t = 0; t < ACROSS; t++) sum[i][t] = dot2(sum[i][t], numbers[t], x + i);
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int t = 0; t < ACROSS; t++) store(total + i * PANEL + t * LANES, load(total + i * PANEL + t * LANES) + sum[i][t]);
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Blocks blocks(w, 2);
  uint32_t* panel = (uint32_t*)room;
  float* totals = (float*)room + blocks.widest() / 2 * PANEL;
  PanelScales scales(w, blocks, totals + TOGETHER_PANELS * m * PANEL);
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * m * PANEL);
  with_decoder(w, [&](const auto& decoder) {
    each_panel(w, blocks, first, last,
      [&](size_t, size_t tile, size_t b) {
        scales.read(w, tile, blocks.first(b), blocks.last(b), 1.0f);
        decode_pairs(w, decoder, scales, tile, blocks.first(b), blocks.last(b), panel);
      },
      [&](size_t p, size_t, size_t b, const auto& fetch) {
        const size_t pairs = (blocks.last(b) - blocks.first(b)) * blocks.columns / 2;
        const uint32_t* x = (const uint32_t*)input + blocks.first(b) * blocks.columns / 2 * m;
        for (size_t done = 0; done < m; done += HIGH) {
          fetch(done / HIGH, (m + HIGH - 1) / HIGH);
          with_height<HIGH>(m - done, [&](auto height) {
            multiply_rows<decltype(height)::value>(panel, x + done * pairs, pairs, totals + (p * m + done) * PANEL);
          });
        }
      });
  });
  put_panels(w, totals, nullptr, m, m, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"panels of bfloat16", PANEL_TILES, TOGETHER_PANELS, HIGH, 9, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace bf16_gemm
