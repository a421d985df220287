// Many rows of x in int8: bytes of whole numbers in a panel, exact sums of each group, rescaled as kernels/linear_int8.h does it.

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
  // sums of row i, written by `quantize`, to what kernels read; all sums start `more` higher
  void finish(const PackedLinear& w, size_t m, size_t i, int32_t more = 0) const {
    for (size_t g = 0; g < w.groups; g++) {
      const int32_t s = start[g * m + i];
      if (w.offset.data) sum[g * m + i] = (float)s;
      start[g * m + i] = more - w.zero * s;
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

constexpr size_t INT8_BYTES = LANES == 16 ? 256 : BLOCK_BYTES;
constexpr int TALL = LANES == 16 ? 8 : HIGH;              // rows of x at a time
constexpr int BESIDE = LANES == 16 ? ACROSS / 2 : ACROSS;  // vectors of a panel at a time: sums of integers stay in registers

// Input: block by block of columns, in each TALL rows of x side by side, [four columns][row]; then RowSums.
static size_t input_nbytes(const PackedLinear& w, size_t m) { return up64(columns_of(w) * m) + RowSums::nbytes(w, m); }

// Room of a thread: a panel, its scales, sums as integers and as float32; or rows of x on their way.
static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 1, INT8_BYTES);
  const size_t multiplying =
    PANEL * (blocks.widest() + 8 * TOGETHER_PANELS * m) + PanelScales::nbytes(w, blocks) * 3 / 2;
  const size_t preparing = ByteRows::nbytes(w) + TALL * up64(columns_of(w));
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 1, INT8_BYTES);
  const size_t columns = up64(columns_of(w));
  const ByteRows bytes(w, room);
  int8_t* rows = (int8_t*)room + ByteRows::nbytes(w);
  const RowSums sums(w, m, (char*)input + up64(columns_of(w) * m));
  const int32_t more = lift(w, m);
  for (size_t done = first; done < last; done += TALL) {
    const size_t n = last - done < (size_t)TALL ? last - done : TALL;
    for (size_t i = 0; i < n; i++) {
      sums.scale[done + i] = bytes.quantize(w, x, type, done + i, rows + i * columns, sums.start + done + i, m);
      sums.finish(w, m, done + i, more);
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
  const float* lowered;  // null: sums are integers that start `lift` higher
  int32_t lift;
  size_t m, first, last;
};

// `M` rows of x from row `at` on with BESIDE vectors of the panel from number `v` on: whole groups go to `total`, a group that goes on in the
// next block waits in `part`.
template <int M>
static void multiply_rows(const Block& b, const int32_t* x, size_t at, size_t v, int32_t* part, float* total) {
  const size_t units = b.w.units, words = codes_of(b.w.bits) / 4, first = b.first / units;
  const uint32_t* panel = b.panel + v;
  const int32_t* start = b.sums.start + first * b.m + at;
  const float *scale = b.scales.scales(first) + v, *lowered = b.lowered + v, *offset = b.scales.offsets(first) + v;
  F sums[M][BESIDE];
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int t = 0; t < BESIDE; t++) sums[i][t] = load(total + i * PANEL + t * LANES);
  for (size_t u = b.first, end = (first + 1) * units; u < b.last; u = end, end += units, start += b.m, scale += PANEL, lowered += PANEL) {
    I sum[M][BESIDE];
    if (u + units == end) {
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < BESIDE; t++) sum[i][t] = (I)all((uint32_t)start[i]);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < BESIDE; t++) sum[i][t] = (I)load((const uint32_t*)part + i * PANEL + t * LANES);
    }
    for (size_t k = ((end < b.last ? end : b.last) - u) * words; k > 0; k--, panel += PANEL, x += M) {
      U bytes[BESIDE];
#pragma GCC unroll 8
      for (int t = 0; t < BESIDE; t++) bytes[t] = load(panel + t * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < BESIDE; t++) sum[i][t] = dot4(sum[i][t], bytes[t], x + i);
    }
    if (end > b.last) {
#pragma GCC unroll 8
      for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int t = 0; t < BESIDE; t++) store((uint32_t*)part + i * PANEL + t * LANES, (U)sum[i][t]);
      break;
    }
#pragma GCC unroll 8
    for (int t = 0; t < BESIDE; t++) {
      const F s = load(scale + t * LANES);
      if (b.lowered) {
        const F low = load(lowered + t * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) sums[i][t] += fused((F)sum[i][t], s, low);
      } else {
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) sums[i][t] += __builtin_convertvector(sum[i][t] - b.lift, F) * s;
      }
    }
    if (b.w.offset.data) {
      const float* sum_of_x = b.sums.sum + (start - b.sums.start);
#pragma GCC unroll 8
      for (int t = 0; t < BESIDE; t++)
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) sums[i][t] += load(offset + t * LANES) * spread(sum_of_x + i);
      offset += PANEL;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 8
    for (int t = 0; t < BESIDE; t++) store(total + i * PANEL + t * LANES, sums[i][t]);
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Blocks blocks(w, 1, INT8_BYTES);
  uint32_t* panel = (uint32_t*)room;
  float* totals = (float*)room + blocks.widest() / 4 * PANEL;
  int32_t* parts = (int32_t*)totals + TOGETHER_PANELS * m * PANEL;
  char* behind = (char*)(parts + TOGETHER_PANELS * m * PANEL);
  PanelScales scales(w, blocks, behind);
  float* lowered = (float*)(behind + PanelScales::nbytes(w, blocks));
  const RowSums sums(w, m, (char*)input + up64(columns_of(w) * m));
  const int32_t more = lift(w, m);
  bool exact = false;
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * m * PANEL);
  each_panel(w, blocks, first, last,
    [&](size_t, size_t tile, size_t b) {
      const size_t groups = scales.read(w, tile, blocks.first(b), blocks.last(b), w.unit);
      exact = more && lower(scales.scale, groups * PANEL, lowered);
      decode_bytes(w, tile, blocks.first(b), blocks.last(b), panel);
    },
    [&](size_t p, size_t, size_t b, const auto& fetch) {
      const Block block = {w, panel, scales, sums, exact ? lowered : nullptr, more, m, blocks.first(b), blocks.last(b)};
      const size_t columns = (block.last - block.first) * blocks.columns;
      const int8_t* x = (const int8_t*)input + block.first * blocks.columns * m;
      for (size_t done = 0; done < m; done += TALL) {
        const size_t at = (p * m + done) * PANEL;
        const int32_t* rows = (const int32_t*)(x + done * columns);
        fetch(done / TALL, (m + TALL - 1) / TALL);
        with_height<TALL>(m - done, [&](auto height) {
          for (size_t v = 0; v < PANEL; v += BESIDE * LANES)
            multiply_rows<decltype(height)::value>(block, rows, done, v, parts + at + v, totals + at + v);
        });
      }
    });
  put_panels(w, totals, sums.scale, m, m, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"panels of int8", PANEL_TILES, TOGETHER_PANELS, TALL, LANES == 16 ? 17 : 9, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace int8_gemm
