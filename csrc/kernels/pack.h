// Codes of 1 to 16 bits as one little-endian bit stream; packing.py holds the order. Eight codes of b bits fill b bytes.

template <bool WIDE> struct CodeType { using Type = uint8_t; };
template <> struct CodeType<true> { using Type = int32_t; };
template <int BITS> using Code = typename CodeType<(BITS > 8)>::Type;
// eight codes, or as many of them as fit 64 bits
template <int BITS> constexpr int TOGETHER = BITS <= 8 ? 8 : 4;

template <int BITS>
static void pack_by(const Code<BITS>* codes, uint8_t* out, size_t count) {
  constexpr int N = TOGETHER<BITS>, BYTES = N * BITS / 8;
  constexpr bool HALF_BYTES = N * BITS % 8 != 0;  // four codes of an odd number of bits end inside a byte: eight of them do not
  size_t i = 0;
  if (!HALF_BYTES)
    for (; i + N <= count; i += N, out += BYTES) {
      uint64_t word = 0;
      for (int k = 0; k < N; k++) word |= (uint64_t)codes[i + k] << (k * BITS);
      for (int k = 0; k < BYTES; k++) out[k] = (uint8_t)(word >> 8 * k);
    }
  uint64_t held = 0;
  int bits = 0;
  for (; i < count; i++) {
    held |= (uint64_t)codes[i] << bits;
    for (bits += BITS; bits >= 8; bits -= 8, held >>= 8) *out++ = (uint8_t)held;
  }
  if (bits) *out = (uint8_t)held;
}

template <int BITS>
static void unpack_by(const uint8_t* data, Code<BITS>* out, size_t count) {
  constexpr int N = TOGETHER<BITS>, BYTES = N * BITS / 8;
  constexpr bool HALF_BYTES = N * BITS % 8 != 0;
  constexpr uint32_t mask = (1u << BITS) - 1;
  size_t i = 0;
  if (!HALF_BYTES)
    for (; i + N <= count; i += N, data += BYTES) {
      uint64_t word = 0;
      for (int k = 0; k < BYTES; k++) word |= (uint64_t)data[k] << 8 * k;
      for (int k = 0; k < N; k++) out[i + k] = (Code<BITS>)((uint32_t)(word >> (k * BITS)) & mask);
    }
  uint64_t held = 0;
  int bits = 0;
  for (; i < count; i++) {
    for (; bits < BITS; bits += 8) held |= (uint64_t)*data++ << bits;
    out[i] = (Code<BITS>)((uint32_t)held & mask);
    held >>= BITS;
    bits -= BITS;
  }
}

#define LOWBIT_WIDTH(n) \
  case n: return LOWBIT_BY(n);
#define LOWBIT_WIDTHS                                                                                    \
  switch (bits) {                                                                                        \
    LOWBIT_WIDTH(1) LOWBIT_WIDTH(2) LOWBIT_WIDTH(3) LOWBIT_WIDTH(4) LOWBIT_WIDTH(5) LOWBIT_WIDTH(6)      \
    LOWBIT_WIDTH(7) LOWBIT_WIDTH(8) LOWBIT_WIDTH(9) LOWBIT_WIDTH(10) LOWBIT_WIDTH(11) LOWBIT_WIDTH(12)   \
    LOWBIT_WIDTH(13) LOWBIT_WIDTH(14) LOWBIT_WIDTH(15) default: return LOWBIT_BY(16);                    \
  }

static void pack(const void* codes, uint8_t* out, int bits, size_t count) {
#define LOWBIT_BY(n) pack_by<n>((const Code<n>*)codes, out, count)
  LOWBIT_WIDTHS
#undef LOWBIT_BY
}

static void unpack(const uint8_t* data, void* out, int bits, size_t count) {
#define LOWBIT_BY(n) unpack_by<n>(data, (Code<n>*)out, count)
  LOWBIT_WIDTHS
#undef LOWBIT_BY
}
#undef LOWBIT_WIDTHS
#undef LOWBIT_WIDTH
