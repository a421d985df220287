// float32, bfloat16 and float16 in memory to float32 and back; to nearest, ties to even, as IEEE 754 has it.

LB_INLINE F wide_from_bfloat16(U h) { return float_of(h << 16); }

LB_INLINE F wide_from_float16(U h) {
  U magnitude = (h & 0x7fffu) << 13;
  U finite = bits_of(float_of(magnitude) * 0x1p112f);  // exact, subnormals too
  U special = magnitude | INFINITE;
  return float_of(select(magnitude >= all(0x0f800000u), special, finite) | (h & 0x8000u) << 16);
}

LB_INLINE U bfloat16_from_wide(F x) {
  U b = bits_of(x);
  U rounded = (b + 0x7fffu + (b >> 16 & 1u)) >> 16;
  return select((b & MAGNITUDE) > all(INFINITE), all(0x7fc0u), rounded);
}

LB_INLINE U float16_from_wide(F x) {
  U b = bits_of(x), magnitude = b & MAGNITUDE;
  U clamped = smaller(magnitude, all(0x47800000u));  // 65536 overflows all the same
  U exponent = larger(clamped & INFINITE, all(113u << 23));
  F magic = float_of(exponent + (13u << 23));
  U r = bits_of((float_of(clamped) + magic) - magic);
  U subnormal = (U)__builtin_convertvector(float_of(r) * 0x1p24f, I);
  U half = select(r < all(113u << 23), subnormal, (r - (112u << 23)) >> 13);
  half = select(r >= all(0x47800000u), all(0x7c00u), half);
  half = select(magnitude > all(INFINITE), all(0x7e00u), half);
  return half | (b >> 16 & 0x8000u);
}

static void read(const void* from, int32_t type, size_t at, float* to, size_t n) {
  if (type == FLOAT32) {
    __builtin_memcpy(to, (const float*)from + at, 4 * n);
    return;
  }
  const uint16_t* p = (const uint16_t*)from + at;
  uint16_t rest[LANES] = {};
  float last[LANES];
  for (size_t i = 0; i < n; i += LANES) {
    const size_t left = n - i;
    const uint16_t* source = p + i;
    if (left < LANES) {
      __builtin_memcpy(rest, source, 2 * left);
      source = rest;
    }
    U h = __builtin_convertvector(*(const HLoose*)source, U);
    F x = type == BFLOAT16 ? wide_from_bfloat16(h) : wide_from_float16(h);
    if (left < LANES) {
      store(last, x);
      __builtin_memcpy(to + i, last, 4 * left);
    } else {
      store(to + i, x);
    }
  }
}

template <bool BRAIN>
LB_INLINE void write16(const float* from, uint16_t* p, size_t n) {
  float last[LANES] = {};
  uint16_t rest[LANES];
  for (size_t i = 0; i < n; i += LANES) {
    const size_t left = n - i;
    const float* source = from + i;
    if (left < LANES) {
      __builtin_memcpy(last, source, 4 * left);
      source = last;
    }
    const F x = load(source);
    const H h = __builtin_convertvector(BRAIN ? bfloat16_from_wide(x) : float16_from_wide(x), H);
    if (left < LANES) {
      *(HLoose*)rest = h;
      __builtin_memcpy(p + i, rest, 2 * left);
    } else {
      *(HLoose*)(p + i) = h;
    }
  }
}

static void write(const float* from, void* to, int32_t type, size_t at, size_t n, bool streamed) {
  if (type == FLOAT32) {
    float* p = (float*)to + at;
    const size_t head = ((64 - ((uintptr_t)p & 63)) & 63) / 4;
    if (!streamed || head + LANES > n) {
      __builtin_memcpy(p, from, 4 * n);
      return;
    }
    const size_t body = (n - head) / LANES * LANES;
    __builtin_memcpy(p, from, 4 * head);
    stream(p + head, from + head, body);
    __builtin_memcpy(p + head + body, from + head + body, 4 * (n - head - body));
    return;
  }
  uint16_t* p = (uint16_t*)to + at;
  const size_t head = streamed ? ((2 * LANES - ((uintptr_t)p & (2 * LANES - 1))) & (2 * LANES - 1)) / 2 : 0;
  if (!streamed || head + LANES > n) return type == BFLOAT16 ? write16<true>(from, p, n) : write16<false>(from, p, n);
  const size_t body = (n - head) / LANES * LANES;
  type == BFLOAT16 ? write16<true>(from, p, head) : write16<false>(from, p, head);
  for (size_t i = head; i < head + body; i += LANES) {
    const F x = load(from + i);
    stream(p + i, __builtin_convertvector(type == BFLOAT16 ? bfloat16_from_wide(x) : float16_from_wide(x), H));
  }
  const size_t rest = head + body;
  type == BFLOAT16 ? write16<true>(from + rest, p + rest, n - rest) : write16<false>(from + rest, p + rest, n - rest);
}
