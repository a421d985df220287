// Many rows of x with tile registers, in bfloat16 and in int8; what a number is, is that of gemm_bf16.h and gemm_int8.h.

constexpr size_t AMX_BYTES = 256;  // of a row of a panel: it stays in the first-level cache with two tiles of x

namespace amx_bf16 {

// Input: block by block of columns (as steps of 32, filled up with zeros), [tile of 16 rows of x][step][16][32].
struct Steps {
  Blocks blocks;
  explicit Steps(const PackedLinear& w) : blocks(w, 2, AMX_BYTES) {}
  size_t of(size_t b) const { return ((blocks.last(b) - blocks.first(b)) * blocks.columns + 31) / 32; }
  size_t widest() const { return (blocks.widest() + 31) / 32; }
  size_t all() const { return (blocks.count() - 1) * widest() + of(blocks.count() - 1); }
};

static size_t input_nbytes(const PackedLinear& w, size_t m) { return Steps(w).all() * 64 * up16(m); }

static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Steps steps(w);
  const size_t multiplying = PANEL * (64 * steps.widest() + 4 * TOGETHER_PANELS * up16(m)) + PanelScales::nbytes(w, steps.blocks);
  const size_t preparing = HalfRows::nbytes(w, 1) + 64;
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Steps steps(w);
  const Blocks& blocks = steps.blocks;
  const HalfRows rows(w, room);
  for (size_t i = first; i < up16(last); i++) {
    if (i < last) rows.read_row(w, x, type, i, 0);
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t count = steps.of(b), nbytes = 2 * (blocks.last(b) - blocks.first(b)) * blocks.columns;
      char* to = (char*)input + b * steps.widest() * 64 * up16(m) + i / 16 * count * 1024 + i % 16 * 64;
      const char* from = (const char*)(rows.rows + blocks.first(b) * blocks.columns);
      for (size_t k = 0; k < count; k++) {
        const size_t n = i >= last ? 0 : nbytes - k * 64 < 64 ? nbytes - k * 64 : 64;
        __builtin_memcpy(to + k * 1024, from + k * 64, n);
        __builtin_memset(to + k * 1024 + n, 0, 64 - n);
      }
    }
  }
}

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  const Steps steps(w);
  const Blocks& blocks = steps.blocks;
  const size_t rows = up16(m);
  uint32_t* panel = (uint32_t*)room;
  float* totals = (float*)room + steps.widest() * 16 * PANEL;
  PanelScales scales(w, blocks, totals + TOGETHER_PANELS * rows * PANEL);
  const TilesInUse tiles(TILES_64);
  with_decoder(w, [&](const auto& decoder) {
    each_panel(w, blocks, first, last,
      [&](size_t, size_t tile, size_t b) {
        const size_t pairs = (blocks.last(b) - blocks.first(b)) * blocks.columns / 2;
        scales.read(w, tile, blocks.first(b), blocks.last(b), 1.0f);
        decode_pairs(w, decoder, scales, tile, blocks.first(b), blocks.last(b), panel);
        __builtin_memset(panel + pairs * PANEL, 0, 4 * PANEL * (steps.of(b) * 16 - pairs));
      },
      [&](size_t p, size_t, size_t b, const auto& fetch) {
        const char* x = (const char*)input + b * steps.widest() * 64 * rows;
        multiply_tiles_all<false>(panel, x, rows, steps.of(b) * 1024, 64, steps.of(b), b == 0, totals + p * rows * PANEL, fetch);
      });
  });
  put_panels(w, totals, nullptr, m, rows, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"AMX tiles of bfloat16", PANEL_TILES, TOGETHER_PANELS, 16, 9, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace amx_bf16

namespace amx_int8 {

// Tiles take products of signed bytes: whole numbers are shifted by `zero`. Null where they do not fit.
static bool as_signed(const PackedLinear& w, PackedLinear* to) {
  if (!w.whole_known || w.units * codes_of(w.bits) % 32 || (w.bits == 8 && w.flip == 0)) return false;
  *to = w;
  to->flip = 0;
  for (int i = 0; w.bits < 8 && i < 64; i++) {  // they repeat
    const int number = w.whole[i] - w.zero;
    if (number < -128 || number > 127) return false;
    to->whole[i] = (uint8_t)number;
  }
  return true;
}

// of x in a step: 64, or 32 where groups are odd multiples of that
static size_t step_bytes(const PackedLinear& w) { return w.units * codes_of(w.bits) % 64 ? 32 : 64; }

// Input: block by block of columns, [tile of 16 rows of x][step][16][bytes]; then RowSums.
static size_t rows_nbytes(const PackedLinear& w, size_t m) { return up64(columns_of(w) * up16(m)); }
static size_t input_nbytes(const PackedLinear& w, size_t m) { return rows_nbytes(w, m) + RowSums::nbytes(w, m); }

static size_t room_nbytes(const PackedLinear& w, size_t m) {
  const Blocks blocks(w, 1, AMX_BYTES);
  const size_t multiplying = PANEL * (blocks.widest() + 8 * TOGETHER_PANELS * up16(m)) + PanelScales::nbytes(w, blocks);
  const size_t preparing = ByteRows::nbytes(w) + up64(columns_of(w));
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 1, AMX_BYTES);
  const ByteRows bytes(w, room);
  int8_t* row = (int8_t*)room + ByteRows::nbytes(w);
  const RowSums sums(w, m, (char*)input + rows_nbytes(w, m));
  const size_t step = step_bytes(w);
  for (size_t i = first; i < up16(last); i++) {
    if (i < last) {
      sums.scale[i] = bytes.quantize(w, x, type, i, row, sums.start + i, m);
      sums.finish(w, m, i);
    } else {
      __builtin_memset(row, 0, columns_of(w));
    }
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t from = blocks.first(b) * blocks.columns, to = blocks.last(b) * blocks.columns;
      int8_t* p = (int8_t*)input + from * up16(m) + i / 16 * 16 * (to - from) + i % 16 * step;
      for (size_t k = from; k < to; k += step, p += 16 * step) __builtin_memcpy(p, row + k, step);
    }
  }
}

// `HEIGHT` tiles of x with two of W, group by group. Sums of a group are added to the totals while the next group is multiplied.
template <int HEIGHT>
LB_INLINE void multiply_groups(const PackedLinear& w, const uint32_t* panel, const int8_t* x, size_t next, size_t step, size_t steps, size_t groups,
                               const float* scale, const float* offset, const float* sum, size_t m, float* total) {
  alignas(64) uint32_t part[2][2 * HEIGHT][256];
  for (size_t g = 0; g <= groups; g++) {
    if (g < groups) {
      tile_zero<0>(), tile_zero<1>();
      if (HEIGHT > 1) tile_zero<2>(), tile_zero<3>();
      for (size_t k = 0; k < steps; k++, x += 16 * step, panel += step / 4 * PANEL) {
        tile_load<4>(x, step);
        tile_load<6>(panel, 4 * PANEL);
        tile_load<7>(panel + 16, 4 * PANEL);
        tile_dot_int8<0, 4, 6>(), tile_dot_int8<1, 4, 7>();
        if (HEIGHT > 1) {
          tile_load<5>(x + next, step);
          tile_dot_int8<2, 5, 6>(), tile_dot_int8<3, 5, 7>();
        }
      }
      tile_store<0>(part[g % 2][0], 64), tile_store<1>(part[g % 2][1], 64);
      if (HEIGHT > 1) tile_store<2>(part[g % 2][2 * HEIGHT - 2], 64), tile_store<3>(part[g % 2][2 * HEIGHT - 1], 64);
    }
    if (g == 0) continue;
    const size_t before = g - 1;
    for (int t = 0; t < 2 * HEIGHT; t++) {
      const F s = load(scale + before * PANEL + t % 2 * 16);
      const uint32_t* from = part[before % 2][t];
      float* to = total + t / 2 * 16 * PANEL + t % 2 * 16;
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) store(to + i * PANEL, load(to + i * PANEL) + __builtin_convertvector((I)load(from + 16 * i), F) * s);
      if (w.offset.data)
        for (int i = 0; i < 16; i++)
          store(to + i * PANEL, load(to + i * PANEL) + load(offset + before * PANEL + t % 2 * 16) * all(sum[before * m + t / 2 * 16 + i]));
    }
  }
}

// A panel with all rows of x, groups inside the block.
template <class Fetch>
LB_INLINE void multiply_short(const PackedLinear& w, const Blocks& blocks, size_t b, const PanelScales& scales, const RowSums& sums, size_t m,
                              const uint32_t* panel, const int8_t* x, float* total, const Fetch& fetch) {
  const size_t step = step_bytes(w), group = w.units * blocks.columns, width = (blocks.last(b) - blocks.first(b)) * blocks.columns;
  const size_t g = blocks.first(b) / w.units;
  for (size_t done = 0; done < m; done += 32) {
    fetch(done / 32, (m + 31) / 32);
    for (int t = 0; t < PANEL; t += 32) {
      const float *scale = scales.scales(g) + t, *offset = scales.offsets(g) + t, *sum = sums.sum + g * m + done;
      const int8_t* from = x + done * width;
      float* to = total + done * PANEL + t;
      if (m - done > 16)
        multiply_groups<2>(w, panel + t, from, width * 16, step, group / step, width / group, scale, offset, sum, m, to);
      else
        multiply_groups<1>(w, panel + t, from, width * 16, step, group / step, width / group, scale, offset, sum, m, to);
    }
  }
}

// The same where groups are longer than blocks: integers go on in `part`, what ends goes to `total`.
template <class Fetch>
LB_INLINE void multiply_long(const PackedLinear& w, const Blocks& blocks, size_t b, const PanelScales& scales, const RowSums& sums, size_t m,
                             const uint32_t* panel, const int8_t* x, uint32_t* part, float* total, const Fetch& fetch) {
  const size_t step = step_bytes(w), width = (blocks.last(b) - blocks.first(b)) * blocks.columns;
  each_group(w, blocks.first(b), blocks.last(b), [&](size_t u, size_t end, size_t g) {
    const size_t at = (u - blocks.first(b)) * blocks.columns, count = (end - u) * blocks.columns / step;
    multiply_tiles_all<true>(panel + at / 4 * PANEL, (const char*)x + at * 16, up16(m), width * 16, step, count, u == g * w.units, part, fetch);
    if (end < (g + 1) * w.units) return;
    for (size_t i = 0; i < m; i++)
      for (int v = 0; v < PANEL; v += LANES) {
        float* to = total + i * PANEL + v;
        F sum = load(to) + __builtin_convertvector((I)load(part + i * PANEL + v), F) * load(scales.scales(g) + v);
        if (w.offset.data) sum += load(scales.offsets(g) + v) * all(sums.sum[g * m + i]);
        store(to, sum);
      }
  });
}

static void multiply(const PackedLinear& weight, const void* input, size_t m, size_t first, size_t last, void* room, void* y, int32_t type,
                     size_t stride, const float* bias) {
  PackedLinear w;
  as_signed(weight, &w);
  const Blocks blocks(w, 1, AMX_BYTES);
  const size_t rows = up16(m);
  uint32_t* panel = (uint32_t*)room;
  float* totals = (float*)room + blocks.widest() / 4 * PANEL;
  uint32_t* parts = (uint32_t*)totals + TOGETHER_PANELS * rows * PANEL;
  PanelScales scales(w, blocks, parts + TOGETHER_PANELS * rows * PANEL);
  const RowSums sums(w, m, (char*)input + rows_nbytes(w, m));
  __builtin_memset(totals, 0, 4 * TOGETHER_PANELS * rows * PANEL);
  const TilesInUse tiles(step_bytes(w) == 64 ? TILES_64 : TILES_32);
  each_panel(w, blocks, first, last,
    [&](size_t, size_t tile, size_t b) {
      scales.read(w, tile, blocks.first(b), blocks.last(b), w.unit);
      decode_bytes(w, tile, blocks.first(b), blocks.last(b), panel);
    },
    [&](size_t p, size_t, size_t b, const auto& fetch) {
      const int8_t* x = (const int8_t*)input + blocks.first(b) * blocks.columns * rows;
      const size_t at = p * rows * PANEL;
      if (w.units > blocks.step)
        multiply_long(w, blocks, b, scales, sums, m, panel, x, parts + at, totals + at, fetch);
      else
        multiply_short(w, blocks, b, scales, sums, m, panel, x, totals + at, fetch);
    });
  put_panels(w, totals, sums.scale, m, rows, first, last, y, type, stride, bias);
}

constexpr Gemm GEMM = {"AMX tiles of int8", PANEL_TILES, TOGETHER_PANELS, 16, 9, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace amx_int8
