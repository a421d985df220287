// Many rows of x in float32: scaled numbers in a panel, sums of a block of columns in registers, blocks added one after another.

namespace float_gemm {

// Input: block by block of columns, in each HIGH rows of x side by side, [column][row].
static size_t input_nbytes(const PackedLinear& w, size_t m) { return up64(4 * columns_of(w) * m); }

// Room of a thread: a panel, its scales and the sums; or a row of x twice.
static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 4);
  const size_t multiplying = 4 * PANEL * (blocks.widest() + TOGETHER_PANELS * m) + PanelScales::nbytes(w, blocks);
  const size_t preparing = up64(4 * w.columns) + HIGH * 4 * columns_of(w);
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 4);
  const size_t columns = columns_of(w);
  float *row = (float*)room, *rows = row + up64(4 * w.columns) / 4;
  for (size_t done = first; done < last; done += HIGH) {
    const size_t n = last - done < (size_t)HIGH ? last - done : HIGH;
    for (size_t i = 0; i < n; i++) {
      read(x, type, (done + i) * w.columns, row, w.columns);
      stored_row(w, row, rows + i * columns);
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

template <int M>
static void multiply_rows(const float* panel, const float* x, size_t columns, float* total) {
  F sum[M][ACROSS] = {};
  for (size_t k = 0; k < columns; k++, panel += PANEL, x += M) {
    F number[ACROSS];
    for (int t = 0; t < ACROSS; t++) number[t] = load(panel + t * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) {
      const F one = spread(x + i);
#pragma GCC unroll 8
      for (int t = 0; t < ACROSS; t++) sum[i][t] = fused(number[t], one, sum[i][t]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int t = 0; t < ACROSS; t++) store(total + i * PANEL + t * LANES, load(total + i * PANEL + t * LANES) + sum[i][t]);
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Blocks blocks(w, 4);
  float *panel = (float*)room, *totals = panel + blocks.widest() * PANEL;
  PanelScales scales(w, blocks, totals + TOGETHER_PANELS * m * PANEL);
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * m * PANEL);
  with_decoder(w, [&](const auto& decoder) {
    each_panel(w, blocks, first, last,
      [&](size_t, size_t tile, size_t b) {
        scales.read(w, tile, blocks.first(b), blocks.last(b), 1.0f);
        decode_run(w, decoder, scales, tile, blocks.first(b), blocks.last(b),
                   [&](size_t column, int i, int row, F numbers) { store(panel + (column + i) * PANEL + row, numbers); });
      },
      [&](size_t p, size_t, size_t b, const auto& fetch) {
        const size_t columns = (blocks.last(b) - blocks.first(b)) * blocks.columns;
        const float* x = (const float*)input + blocks.first(b) * blocks.columns * m;
        for (size_t done = 0; done < m; done += HIGH) {
          fetch(done / HIGH, (m + HIGH - 1) / HIGH);
          with_height<HIGH>(m - done, [&](auto height) {
            multiply_rows<decltype(height)::value>(panel, x + done * columns, columns, totals + (p * m + done) * PANEL);
          });
        }
      });
  });
  put_panels(w, totals, nullptr, m, m, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"panels of float32", PANEL_TILES, TOGETHER_PANELS, HIGH, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace float_gemm
