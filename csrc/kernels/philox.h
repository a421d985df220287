// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), as philox.py: counter = (low, high, 0, 0) of the block's number.

LB_INLINE void philox_lanes(uint32_t k0, uint32_t k1, uint64_t block, uint32_t* out) {
  U lane = {}, c = {}, d = {};
  for (int i = 0; i < LANES; i++) lane[i] = (uint32_t)i;
  U a = all((uint32_t)block) + lane;
  U b = all((uint32_t)(block >> 32)) - (U)(I)(a < all((uint32_t)block));  // the carry: true is -1
  for (int i = 0; i < 10; i++) {
    const U high0 = upper_product(a, 0xD2511F53u), low0 = a * 0xD2511F53u;
    const U high1 = upper_product(c, 0xCD9E8D57u), low1 = c * 0xCD9E8D57u;
    a = high1 ^ b ^ k0;
    b = low1;
    c = high0 ^ d ^ k1;
    d = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
#if defined(__AVX512F__)
  const U pair_low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const U pair_high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const U quad_low = {0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23};
  const U quad_high = {8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31};
  const U ab0 = __builtin_shuffle(a, b, pair_low), ab1 = __builtin_shuffle(a, b, pair_high);
  const U cd0 = __builtin_shuffle(c, d, pair_low), cd1 = __builtin_shuffle(c, d, pair_high);
  store(out, __builtin_shuffle(ab0, cd0, quad_low));
  store(out + 16, __builtin_shuffle(ab0, cd0, quad_high));
  store(out + 32, __builtin_shuffle(ab1, cd1, quad_low));
  store(out + 48, __builtin_shuffle(ab1, cd1, quad_high));
#else
  for (int i = 0; i < LANES; i++, out += 4) out[0] = a[i], out[1] = b[i], out[2] = c[i], out[3] = d[i];
#endif
}

static void philox(uint32_t key0, uint32_t key1, uint64_t block, uint32_t* out, size_t blocks) {
  size_t i = 0;
  for (; i + LANES <= blocks; i += LANES) philox_lanes(key0, key1, block + i, out + 4 * i);
  if (const size_t left = blocks - i) {
    uint32_t rest[4 * LANES];
    philox_lanes(key0, key1, block + i, rest);
    __builtin_memcpy(out + 4 * i, rest, 16 * left);
  }
}
