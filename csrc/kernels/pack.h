// Codes of 1 to 8 bits as one little-endian bit stream; packing.py holds the order. Eight codes of b bits fill b bytes.

template <int BITS>
static void pack_by(const uint8_t* codes, uint8_t* out, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8, out += BITS) {
    uint64_t word = 0;
    for (int k = 0; k < 8; k++) word |= (uint64_t)codes[i + k] << (k * BITS);
    for (int k = 0; k < BITS; k++) out[k] = (uint8_t)(word >> 8 * k);
  }
  uint64_t word = 0;
  for (size_t k = i; k < count; k++) word |= (uint64_t)codes[k] << ((k - i) * BITS);
  for (size_t k = 0; 8 * k < (count - i) * BITS; k++) out[k] = (uint8_t)(word >> 8 * k);
}

template <int BITS>
static void unpack_by(const uint8_t* data, uint8_t* out, size_t count) {
  constexpr uint8_t mask = (uint8_t)((1u << BITS) - 1);
  size_t i = 0;
  for (; i + 8 <= count; i += 8, data += BITS) {
    uint64_t word = 0;
    for (int k = 0; k < BITS; k++) word |= (uint64_t)data[k] << 8 * k;
    for (int k = 0; k < 8; k++) out[i + k] = (uint8_t)(word >> (k * BITS)) & mask;
  }
  uint64_t word = 0;
  for (size_t k = 0; 8 * k < (count - i) * BITS; k++) word |= (uint64_t)data[k] << 8 * k;
  for (size_t k = i; k < count; k++) out[k] = (uint8_t)(word >> ((k - i) * BITS)) & mask;
}

#define LOWBIT_WIDTHS(f, ...)       \
  switch (bits) {                   \
    case 1: return f<1>(__VA_ARGS__); \
    case 2: return f<2>(__VA_ARGS__); \
    case 3: return f<3>(__VA_ARGS__); \
    case 4: return f<4>(__VA_ARGS__); \
    case 5: return f<5>(__VA_ARGS__); \
    case 6: return f<6>(__VA_ARGS__); \
    case 7: return f<7>(__VA_ARGS__); \
    default: return f<8>(__VA_ARGS__); \
  }

static void pack(const uint8_t* codes, uint8_t* out, int bits, size_t count) { LOWBIT_WIDTHS(pack_by, codes, out, count) }
static void unpack(const uint8_t* data, uint8_t* out, int bits, size_t count) { LOWBIT_WIDTHS(unpack_by, data, out, count) }
#undef LOWBIT_WIDTHS
