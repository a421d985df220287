// Many rows of x with tile registers, in bfloat16 and in int8; what a number is, is that of gemm_bf16.h and gemm_int8.h.

constexpr size_t TOGETHER_PANELS = 4;  // that read x once: tiles are quicker than the caches beyond the second

namespace amx_bf16 {

// Input: block by block of columns (as steps of 32, filled up with zeros), [tile of 16 rows of x][step][16][32].
struct Steps {
  Blocks blocks;
  explicit Steps(const PackedLinear& w) : blocks(w, 2) {}
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

static void multiply(const PackedLinear& w, const void* input, size_t m, size_t tile, void* room, void* y, int32_t type, size_t stride,
                     const float* bias) {
  const Steps steps(w);
  const Blocks& blocks = steps.blocks;
  const size_t rows = up16(m);
  uint32_t* panel = (uint32_t*)room;
  float* total = (float*)room + steps.widest() * 16 * PANEL;
  PanelScales scales(w, blocks, total + TOGETHER_PANELS * rows * PANEL);
  const TilesInUse tiles(TILES_64);
  with_decoder(w, [&](const auto& decoder) {
    for (size_t b = 0; b < blocks.count(); b++) {
      const size_t first = blocks.first(b), last = blocks.last(b), pairs = (last - first) * blocks.columns / 2, count = steps.of(b);
      for (size_t p = 0; p < TOGETHER_PANELS && tile + p * PANEL_TILES < tiles_of(w); p++) {
        scales.read(w, tile + p * PANEL_TILES, first, last, 1.0f);
        decode_pairs(w, decoder, scales, tile + p * PANEL_TILES, first, last, panel);
        __builtin_memset(panel + pairs * PANEL, 0, 4 * PANEL * (count * 16 - pairs));
        multiply_tiles_all<false>(panel, (const char*)input + b * steps.widest() * 64 * rows, rows, count * 1024, 64, count, b == 0, total + p * rows * PANEL);
      }
    }
  });
  for (size_t p = 0; p < TOGETHER_PANELS && tile + p * PANEL_TILES < tiles_of(w); p++)
    put_panel(w, total + p * rows * PANEL, nullptr, m, tile + p * PANEL_TILES, y, type, stride, bias);
}

constexpr Gemm GEMM = {"AMX tiles of bfloat16", PANEL_TILES * TOGETHER_PANELS, 16, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace amx_bf16

namespace amx_int8 {

// Tiles take products of signed bytes: whole numbers are shifted by `zero`. Null where they do not fit.
static bool as_signed(const PackedLinear& w, PackedLinear* to) {
  if (!w.whole_known || w.units * codes_of(w.bits) % 32 || (w.bits == 8 && w.flip == 0)) return false;
  *to = w;
  to->flip = 0;
  for (int i = 0; w.bits < 8 && i < 1 << w.bits; i++) {
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
  const Blocks blocks(w, 1);
  const size_t multiplying = PANEL * (blocks.widest() + 8 * TOGETHER_PANELS * up16(m)) + PanelScales::nbytes(w, blocks);
  const size_t preparing = ByteRows::nbytes(w) + up64(columns_of(w));
  return multiplying > preparing ? multiplying : preparing;
}

static void prepare(const PackedLinear& w, const void* x, int32_t type, size_t m, size_t first, size_t last, void* input, void* room) {
  const Blocks blocks(w, 1);
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

// A tile of x with one of W, group by group, the totals in registers.
static void multiply_groups(const uint32_t* panel, const int8_t* x, size_t step, size_t steps, size_t groups, const float* scale, const float* offset,
                            const float* sum, size_t m, float* total) {
  alignas(64) uint32_t part[4][256];  // several, as the sums of a group arrive while the next ones are under way
  F all_totals[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) all_totals[i] = load(total + i * PANEL);
  for (size_t g = 0; g < groups; g++) {
    tile_zero<0>();
    for (size_t k = 0; k < steps; k++, x += 16 * step, panel += step / 4 * PANEL) {
      tile_load<4>(x, step);
      tile_load<6>(panel, 4 * PANEL);
      tile_dot_int8<0, 4, 6>();
    }
    uint32_t* to = part[g % 4];
    tile_store<0>(to, 64);
    const F s = load(scale + g * PANEL);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) all_totals[i] += __builtin_convertvector((I)load(to + 16 * i), F) * s;
    if (offset)
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) all_totals[i] += load(offset + g * PANEL) * all(sum[g * m + i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) store(total + i * PANEL, all_totals[i]);
}

// A panel with all rows of x, where groups are longer than blocks: integers go on in `part`, what ends goes to `total`.
static void multiply_long(const PackedLinear& w, const Blocks& blocks, size_t b, const PanelScales& scales, const RowSums& sums, size_t m,
                          const uint32_t* panel, const int8_t* x, uint32_t* part, float* total) {
  const size_t step = step_bytes(w), width = (blocks.last(b) - blocks.first(b)) * blocks.columns;
  each_group(w, blocks.first(b), blocks.last(b), [&](size_t u, size_t end, size_t g) {
    const size_t at = (u - blocks.first(b)) * blocks.columns, count = (end - u) * blocks.columns / step;
    multiply_tiles_all<true>(panel + at / 4 * PANEL, (const char*)x + at * 16, up16(m), width * 16, step, count, u == g * w.units, part);
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

static void multiply(const PackedLinear& weight, const void* input, size_t m, size_t tile, void* room, void* y, int32_t type, size_t stride,
                     const float* bias) {
  PackedLinear w;
  as_signed(weight, &w);
  const Blocks blocks(w, 1);
  const size_t rows = up16(m), step = step_bytes(w), group = w.units * blocks.columns;
  uint32_t* panel = (uint32_t*)room;
  float* total = (float*)room + blocks.widest() / 4 * PANEL;
  uint32_t* part = (uint32_t*)total + TOGETHER_PANELS * rows * PANEL;
  PanelScales scales(w, blocks, part + TOGETHER_PANELS * rows * PANEL);
  const RowSums sums(w, m, (char*)input + rows_nbytes(w, m));
  __builtin_memset(total, 0, 4 * TOGETHER_PANELS * rows * PANEL);
  const TilesInUse tiles(step == 64 ? TILES_64 : TILES_32);
  for (size_t b = 0; b < blocks.count(); b++) {
    const size_t first = blocks.first(b), last = blocks.last(b), width = (last - first) * blocks.columns, g = first / w.units;
    const int8_t* x = (const int8_t*)input + first * blocks.columns * rows;
    for (size_t p = 0; p < TOGETHER_PANELS && tile + p * PANEL_TILES < tiles_of(w); p++) {
      scales.read(w, tile + p * PANEL_TILES, first, last, w.unit);
      decode_bytes(w, tile + p * PANEL_TILES, first, last, panel);
      float* to = total + p * rows * PANEL;
      if (w.units > blocks.step) {
        multiply_long(w, blocks, b, scales, sums, m, panel, x, part + p * rows * PANEL, to);
        continue;
      }
      for (size_t done = 0; done < m; done += 16)
        for (int t = 0; t < PANEL; t += 16)
          multiply_groups(panel + t, x + done * width, step, group / step, width / group, scales.scales(g) + t,
                          w.offset.data ? scales.offsets(g) + t : nullptr, sums.sum + g * m + done, m, to + done * PANEL + t);
    }
  }
  for (size_t p = 0; p < TOGETHER_PANELS && tile + p * PANEL_TILES < tiles_of(w); p++)
    put_panel(w, total + p * rows * PANEL, sums.scale, m, tile + p * PANEL_TILES, y, type, stride, bias);
}

constexpr Gemm GEMM = {"AMX tiles of int8", PANEL_TILES * TOGETHER_PANELS, 16, input_nbytes, room_nbytes, prepare, multiply};

}  // namespace amx_int8
