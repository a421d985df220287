// Panels of W for products with many rows of x: PANEL rows by a block of columns, decoded into the first-level cache.

constexpr int PANEL_TILES = LANES == 16 ? 4 : 1;
constexpr int PANEL = PANEL_TILES * (int)TILE_ROWS;  // rows of W
constexpr int ACROSS = PANEL / LANES;                // vectors
constexpr int HIGH = LANES == 4 ? 2 : 6;             // rows of x at a time: HIGH x ACROSS sums stay in registers
constexpr size_t BLOCK_BYTES = LANES == 16 ? 512 : 1024;  // of a row of a panel, about
constexpr size_t TOGETHER_PANELS = 4;                     // that read x once

// Columns as stored come in units; a block is a run of them, of whole groups or inside one group wherever groups are powers of two.
struct Blocks {
  size_t units, step;  // in all, of a block
  size_t columns;      // of a unit
  Blocks(const PackedLinear& w, size_t bytes_of_code, size_t nbytes = BLOCK_BYTES)
      : units(w.groups * w.units), step(nbytes / bytes_of_code / codes_of(w.bits)), columns(codes_of(w.bits)) {
    if (step < 1) step = 1;
    if (step >= w.units) step = step / w.units * w.units;
    if (step > units) step = units;
  }
  size_t count() const { return (units + step - 1) / step; }
  size_t first(size_t b) const { return b * step; }
  size_t last(size_t b) const { return (b + 1) * step < units ? (b + 1) * step : units; }
  size_t widest() const { return step * columns; }
};

// f(first unit, end, group) for the parts of groups in a run of units
template <class Function>
LB_INLINE void each_group(const PackedLinear& w, size_t first, size_t last, const Function& f) {
  for (size_t u = first, g = first / w.units; u < last; g++) {
    const size_t end = (g + 1) * w.units < last ? (g + 1) * w.units : last;
    f(u, end, g);
    u = end;
  }
}

// Scales (and offsets) of the groups that a run of units touches: [group][PANEL].
struct PanelScales {
  float *scale, *offset;
  size_t first;  // group
  static size_t nbytes(const PackedLinear& w, const Blocks& blocks) { return 2 * (blocks.step / w.units + 2) * PANEL * 4; }
  PanelScales(const PackedLinear& w, const Blocks& blocks, void* room)
      : scale((float*)room), offset(scale + (blocks.step / w.units + 2) * PANEL), first(0) {}
  // how many groups these are
  size_t read(const PackedLinear& w, size_t tile, size_t from, size_t to, float factor) {
    first = from / w.units;
    const size_t count = (to - 1) / w.units + 1 - first;
    for (size_t t = 0; t < PANEL_TILES; t++) {
      const size_t there = tile + t < tiles_of(w) ? tile + t : tiles_of(w) - 1;
      read_blocks(w.scale, there, w.groups, first, count, 1, scale + t * TILE_ROWS, PANEL);
      if (w.offset.data) read_blocks(w.offset, there, w.groups, first, count, 1, offset + t * TILE_ROWS, PANEL);
    }
    if (factor != 1.0f)
      for (size_t i = 0; i < count * PANEL; i += LANES) store(scale + i, load(scale + i) * all(factor));
    return count;
  }
  const float* scales(size_t g) const { return scale + (g - first) * PANEL; }
  const float* offsets(size_t g) const { return offset + (g - first) * PANEL; }
};

// codes of a tile from a unit on; past the last tile the last one serves, whose results are not stored
LB_INLINE const uint32_t* codes_from(const PackedLinear& w, size_t tile, size_t unit) {
  const size_t there = tile < tiles_of(w) ? tile : tiles_of(w) - 1;
  return w.codes + (there * w.groups * w.units + unit) * words_of(w.bits) * TILE_ROWS;
}

// Asks for part `part` of `parts` of a panel's codes of units first to last - 1, which are decoded next.
LB_INLINE void fetch_codes(const PackedLinear& w, size_t tile, size_t first, size_t last, size_t part, size_t parts) {
  const size_t lines = (last - first) * words_of(w.bits), from = lines * part / parts, to = lines * (part + 1) / parts;
  for (int t = 0; t < PANEL_TILES; t++) {
    const uint32_t* p = codes_from(w, tile + t, first);
    for (size_t i = from; i < to; i++) __builtin_prefetch(p + i * TILE_ROWS, 0, 2);
  }
}

// Several panels, block by block of columns: decode(panel p, its first tile, block b), then rows(p, tile, b, fetch), which calls
// fetch(part, parts) while it multiplies.
template <class Decode, class Rows>
LB_INLINE void each_panel(const PackedLinear& w, const Blocks& blocks, size_t first, size_t last, const Decode& decode, const Rows& rows) {
  const size_t panels = (last - first + PANEL_TILES - 1) / PANEL_TILES;
  for (size_t b = 0; b < blocks.count(); b++)
    for (size_t p = 0; p < panels; p++) {
      const size_t tile = first + p * PANEL_TILES, next = p + 1 < panels ? b : b + 1;
      decode(p, tile, b);
      rows(p, tile, b, [&](size_t part, size_t parts) {
        if (next < blocks.count()) fetch_codes(w, next == b ? tile + PANEL_TILES : first, blocks.first(next), blocks.last(next), part, parts);
      });
    }
}

// f(decoder) with the decoder of the weight
template <class Function>
static void with_decoder(const PackedLinear& w, const Function& f) {
  switch (w.decode == TABLE || w.decode == SYMMETRIC ? w.bits : -w.decode) {
    case 1: return f(Lookup<1>(w));
    case 2: return f(Lookup<2>(w));
    case 3: return f(Lookup<3>(w));
    case 4: return f(Lookup<4>(w));
    case 5: return f(Lookup<5>(w));
    case 6: return f(Lookup<6>(w));
    case -INTEGER: return f(Integers<true>(w));
    case -UNSIGNED: return f(Integers<false>(w));
    default:
      if (w.decode == SYMMETRIC) f(Symmetric(w));
      else f(Gathered(w));
  }
}

// A run of units as numbers: put(column, i, row of the panel, LANES numbers) for column + i counted from the start of the run.
template <bool SCALED, class Decoder, class Put>
LB_INLINE void decode_run(const PackedLinear& w, const Decoder& from, const PanelScales& s, size_t tile, size_t first, size_t last, const Put& put) {
  constexpr int WORDS = Decoder::WORDS, CODES = Decoder::CODES;
  const Decoder decoder = from;  // no pointer leads here, so it stays in registers
  for (int t = 0; t < PANEL_TILES; t++) {
    const uint32_t* codes = codes_from(w, tile + t, first);
    size_t column = 0;
    each_group(w, first, last, [&](size_t u, size_t end, size_t g) {
      F scale[VECTORS], offset[VECTORS];
      for (int v = 0; v < VECTORS; v++) {
        scale[v] = load(s.scales(g) + t * TILE_ROWS + v * LANES);
        offset[v] = w.offset.data ? load(s.offsets(g) + t * TILE_ROWS + v * LANES) : F{};
      }
      for (; u < end; u++, codes += WORDS * TILE_ROWS, column += CODES)
        for (int v = 0; v < VECTORS; v++) {
          U words[WORDS];
          for (int k = 0; k < WORDS; k++) words[k] = load(codes + k * TILE_ROWS + v * LANES);
#pragma GCC unroll 32
          for (int i = 0; i < CODES; i++) {
            const F number = decoder.at(words, i);
            put(column, i, t * (int)TILE_ROWS + v * LANES, SCALED ? number * scale[v] + offset[v] : number);
          }
        }
    });
  }
}

template <int N>
struct Height {
  static constexpr int value = N;
};

// f(Height<n>), or f(Height<M>) where n is larger
template <int M, class Function>
LB_INLINE void with_height(size_t n, const Function& f) {
  if constexpr (M > 1)
    if (n < (size_t)M) return with_height<M - 1>(n, f);
  f(Height<M>{});
}

// Sums of panels, [panel][row of x, `rows` of them][PANEL], times the scale of each row of x (null: 1), plus bias, to y.
static void put_panels(const PackedLinear& w, float* totals, const float* row_scale, size_t m, size_t rows, size_t first, size_t last, void* y,
                       int32_t type, size_t stride, const float* bias) {
  for (size_t tile = first; tile < last; tile += PANEL_TILES, totals += rows * PANEL) {
    const size_t row = tile * TILE_ROWS, count = w.rows - row < (size_t)PANEL ? w.rows - row : PANEL;
    alignas(64) float added[PANEL] = {};
    if (bias) __builtin_memcpy(added, bias + row, 4 * count);
    for (size_t i = 0; i < m; i++) {
      float* total = totals + i * PANEL;
      if (row_scale)
        for (int v = 0; v < PANEL; v += LANES) store(total + v, load(total + v) * all(row_scale[i]));
      if (bias)
        for (int v = 0; v < PANEL; v += LANES) store(total + v, load(total + v) + load(added + v));
      write(total, y, type, i * stride + row, count, false);
    }
  }
}
