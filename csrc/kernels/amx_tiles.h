// The tile registers of AMX: eight of up to 16 rows of 64 bytes. Instructions are written out, as compilers' headers want numbers as literals
// and some compilers drop the stores that fill a configuration before it is loaded; configurations are constants here.

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
  // tiles 0 to 3 are sums, 4 and 5 rows of x with `bytes` each, 6 and 7 of W
  constexpr explicit TileShapes(int bytes) {
    for (int t = 0; t < 8; t++) {
      row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? bytes : 64);
      rows[t] = (uint8_t)(t < 6 ? 16 : bytes / 4);
    }
  }
};
static constexpr TileShapes TILES_64(64), TILES_32(32);

#if defined(LOWBIT_EMULATE_AMX)
struct EmulatedTiles {
  const TileShapes* shapes = nullptr;  // null: not configured, where the CPU would raise an exception
  alignas(64) uint8_t bytes[8][16][64];
  template <class T>
  T& at(int tile, int row, int k) { return ((T*)bytes[tile][row])[k]; }
};
static thread_local EmulatedTiles emulated;

struct TilesInUse {
  explicit TilesInUse(const TileShapes& shapes) {
    if (emulated.shapes) __builtin_trap();  // not released
    emulated.shapes = &shapes;
  }
  ~TilesInUse() { emulated.shapes = nullptr; }
};
template <int T>
static void tile_zero() { __builtin_memset(emulated.bytes[T], 0, 1024); }
template <int T>
static void tile_load(const void* p, size_t stride) {
  if (!emulated.shapes) __builtin_trap();
  tile_zero<T>();
  const int rows = emulated.shapes->rows[T], nbytes = emulated.shapes->row_bytes[T];
  for (int r = 0; r < rows; r++) __builtin_memcpy(emulated.bytes[T][r], (const char*)p + r * stride, nbytes);
}
template <int T>
static void tile_store(void* p, size_t stride) {
  for (int r = 0; r < emulated.shapes->rows[T]; r++) __builtin_memcpy((char*)p + r * stride, emulated.bytes[T][r], emulated.shapes->row_bytes[T]);
}
template <int C, int A, int B>
static void tile_dot_int8() {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++)
      for (int k = 0; k < emulated.shapes->row_bytes[A]; k++)
        emulated.at<int32_t>(C, m, n) += emulated.at<int8_t>(A, m, k) * emulated.at<int8_t>(B, k / 4, 4 * n + k % 4);
}
template <int C, int A, int B>
static void tile_dot_bf16() {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++)
      for (int k = 0; k < emulated.shapes->row_bytes[A] / 2; k++)
        emulated.at<float>(C, m, n) += one_float((uint32_t)emulated.at<uint16_t>(A, m, k) << 16) *
                                       one_float((uint32_t)emulated.at<uint16_t>(B, k / 2, 2 * n + k % 2) << 16);
}
#else
// Tiles are given back at the end: whoever uses them next (oneDNN, say) finds them unconfigured, and threads switch cheaply.
struct TilesInUse {
  LB_INLINE_MEMBER explicit TilesInUse(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes)); }
  LB_INLINE_MEMBER ~TilesInUse() { __asm__ volatile("tilerelease" ::: "memory"); }
};
template <int T>
LB_INLINE void tile_zero() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(T)); }
template <int T>
LB_INLINE void tile_load(const void* p, size_t stride) { __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory"); }
template <int T>
LB_INLINE void tile_store(void* p, size_t stride) { __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory"); }
template <int C, int A, int B>
LB_INLINE void tile_dot_int8() { __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
template <int C, int A, int B>
LB_INLINE void tile_dot_bf16() { __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
#endif

// Rows of x come in tiles of 16.
LB_INLINE size_t up16(size_t n) { return (n + 15) / 16 * 16; }

// Sums [row of x][PANEL] of `HEIGHT` tiles of x, `next` bytes apart, with two of W, over `count` steps of x, [16][bytes] each.
template <int HEIGHT, bool INTEGERS>
LB_INLINE void multiply_tiles_2(const uint32_t* panel, const char* x, size_t next, size_t bytes, size_t count, bool starts, void* sums) {
  constexpr size_t ROW = 4 * PANEL;
  char *low = (char*)sums, *high = low + 16 * ROW;
  if (starts) {
    tile_zero<0>(), tile_zero<1>();
    if (HEIGHT > 1) tile_zero<2>(), tile_zero<3>();
  } else {
    tile_load<0>(low, ROW), tile_load<1>(low + 64, ROW);
    if (HEIGHT > 1) tile_load<2>(high, ROW), tile_load<3>(high + 64, ROW);
  }
  for (size_t k = 0; k < count; k++, x += 16 * bytes, panel += bytes / 4 * PANEL) {
    tile_load<4>(x, bytes);
    tile_load<6>(panel, ROW);
    tile_load<7>(panel + 16, ROW);
    if (HEIGHT > 1) tile_load<5>(x + next, bytes);
    if constexpr (INTEGERS) {
      tile_dot_int8<0, 4, 6>(), tile_dot_int8<1, 4, 7>();
      if (HEIGHT > 1) tile_dot_int8<2, 5, 6>(), tile_dot_int8<3, 5, 7>();
    } else {
      tile_dot_bf16<0, 4, 6>(), tile_dot_bf16<1, 4, 7>();
      if (HEIGHT > 1) tile_dot_bf16<2, 5, 6>(), tile_dot_bf16<3, 5, 7>();
    }
  }
  tile_store<0>(low, ROW), tile_store<1>(low + 64, ROW);
  if (HEIGHT > 1) tile_store<2>(high, ROW), tile_store<3>(high + 64, ROW);
}

// All rows of x with a panel. Two tiles of x stay in the first-level cache for all of the panel.
template <bool INTEGERS, class Fetch>
LB_INLINE void multiply_tiles_all(const uint32_t* panel, const char* x, size_t m, size_t next, size_t bytes, size_t count, bool starts, void* sums,
                                  const Fetch& fetch) {
  for (size_t done = 0; done < m; done += 32) {
    fetch(done / 32, (m + 31) / 32);
    for (int t = 0; t < PANEL; t += 32) {
      void* to = (uint32_t*)sums + done * PANEL + t;
      if (m - done > 16)
        multiply_tiles_2<2, INTEGERS>(panel + t, x + done / 16 * next, next, bytes, count, starts, to);
      else
        multiply_tiles_2<1, INTEGERS>(panel + t, x + done / 16 * next, next, bytes, count, starts, to);
    }
  }
}
