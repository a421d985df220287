// Many rows of x in float32: numbers in a panel, and the operations of kernels/linear.h in their order, so that a row of y has the same bits
// however many rows there are (but for a single one with codes of 1 and 2 bits).

namespace float_gemm {

// Input: block by block of columns, in each HIGH rows of x side by side, [column][row]; then, for offsets, sums of x, [group][row].
static size_t rows_nbytes(const PackedLinear& w, size_t m) { return up64(4 * columns_of(w) * m); }
static size_t input_nbytes(const PackedLinear& w, size_t m) { return rows_nbytes(w, m) + (w.offset.data ? up64(4 * w.groups * m) : 0); }

// Room of a thread: a panel, its scales, sums and those of groups that go on; or rows of x on their way.
static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 4);
  const size_t multiplying = 4 * PANEL * (blocks.widest() + 2 * TOGETHER_PANELS * m) + PanelScales::nbytes(w, blocks);
  const size_t preparing = up64(4 * w.columns) + HIGH * 4 * columns_of(w);
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 4);
  const size_t columns = columns_of(w);
  float* sums = (float*)((char*)input + rows_nbytes(w, m));
  float *row = (float*)room, *rows = row + up64(4 * w.columns) / 4;
  for (size_t done = first; done < last; done += HIGH) {
    const size_t n = last - done < (size_t)HIGH ? last - done : HIGH;
    for (size_t i = 0; i < n; i++) {
      read(x, type, (done + i) * w.columns, row, w.columns);
      stored_row(w, row, rows + i * columns);
      for (size_t g = 0; w.offset.data && g < w.groups; g++)
        sums[g * m + done + i] = sum_of(row + g * w.group, (g + 1) * w.group < w.columns ? w.group : w.columns - g * w.group);
    }
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t from = blocks.first(b) * blocks.columns, to = blocks.last(b) * blocks.columns;
      float* p = (float*)input + from * m + done * (to - from);
      with_height<HIGH>(n, [&](auto height) {
        constexpr int M = decltype(height)::value;
        for (size_t k = from; k < to; k++, p += M)
          for (int i = 0; i < M; i++) p[i] = rows[i * columns + k];
      });
    }
  }
}

// What stays the same for all rows of x.
struct Block {
  const PackedLinear& w;
  const float* panel;
  const PanelScales& scales;
  const float* sums;
  size_t m, first, last;
};

// `M` rows of x from row `at` on: whole groups go to `total`, those that go on in the next block wait in `part`.
template <int M>
static void multiply_rows(const Block& b, const float* x, size_t at, float* part, float* total) {
  const float* panel = b.panel;
  const size_t codes = codes_of(b.w.bits);
  each_group(b.w, b.first, b.last, [&](size_t u, size_t end, size_t g) {
    F sum[M][ACROSS];
    const bool starts = u == g * b.w.units, ends = end == (g + 1) * b.w.units;
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
      for (int t = 0; t < ACROSS; t++) sum[i][t] = starts ? F{} : load(part + i * PANEL + t * LANES);
    for (size_t k = (end - u) * codes; k > 0; k--, panel += PANEL, x += M) {
      F number[ACROSS];
      for (int t = 0; t < ACROSS; t++) number[t] = load(panel + t * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) {
        const F one = spread(x + i);
#pragma GCC unroll 8
        for (int t = 0; t < ACROSS; t++) sum[i][t] = fused(number[t], one, sum[i][t]);
      }
    }
    if (!ends) {
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < ACROSS; t++) store(part + i * PANEL + t * LANES, sum[i][t]);
      return;
    }
    const float *scale = b.scales.scales(g), *offset = b.scales.offsets(g);
#pragma GCC unroll 8
    for (int t = 0; t < ACROSS; t++) {
      const F s = load(scale + t * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) {
        float* to = total + i * PANEL + t * LANES;
        store(to, fused(sum[i][t], s, load(to)));
      }
    }
    if (b.w.offset.data)
      for (int i = 0; i < M; i++)
        for (int t = 0; t < ACROSS; t++) {
          float* to = total + i * PANEL + t * LANES;
          store(to, fused(load(offset + t * LANES), spread(b.sums + g * b.m + at + i), load(to)));
        }
  });
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Blocks blocks(w, 4);
  float *panel = (float*)room, *totals = panel + blocks.widest() * PANEL, *parts = totals + TOGETHER_PANELS * m * PANEL;
  PanelScales scales(w, blocks, parts + TOGETHER_PANELS * m * PANEL);
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * m * PANEL);
  with_decoder(w, [&](const auto& decoder) {
    each_panel(w, blocks, first, last,
      [&](size_t, size_t tile, size_t b) {
        scales.read(w, tile, blocks.first(b), blocks.last(b), 1.0f);
        decode_run<false>(w, decoder, scales, tile, blocks.first(b), blocks.last(b),
                   [&](size_t column, int i, int row, F numbers) { store(panel + (column + i) * PANEL + row, numbers); });
      },
      [&](size_t p, size_t, size_t b, const auto& fetch) {
        const Block block = {w, panel, scales, (const float*)((const char*)input + rows_nbytes(w, m)), m, blocks.first(b), blocks.last(b)};
        const size_t columns = (block.last - block.first) * blocks.columns;
        const float* x = (const float*)input + block.first * blocks.columns * m;
        for (size_t done = 0; done < m; done += HIGH) {
          fetch(done / HIGH, (m + HIGH - 1) / HIGH);
          with_height<HIGH>(m - done, [&](auto height) {
            const size_t at = (p * m + done) * PANEL;
            multiply_rows<decltype(height)::value>(block, x + done * columns, done, parts + at, totals + at);
          });
        }
      });
  });
  put_panels(w, totals, nullptr, m, m, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"panels of float32", PANEL_TILES, TOGETHER_PANELS, HIGH, 32, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace float_gemm
