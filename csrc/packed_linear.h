// The weight of a linear layer as kernels read it; kernels/cpu/linear_layout.py makes it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lowbit {

// How a stored code becomes a number. Only codes of 8 bits know other ways than a table.
enum Decoding : int32_t {
  TABLE = 0,      // table[code]
  INTEGER = 1,    // the code is a two's complement integer
  UNSIGNED = 2,   // the code is an integer
  SYMMETRIC = 3,  // the upper bit is the sign, the others an index into bfloat16 numbers: table[code], and its bytes in `magnitudes`
};

// One number a block of 1 x group, 16 rows side by side: [tile][group][16].
enum Store : int32_t {
  STORE_FLOAT32 = 0,
  STORE_BFLOAT16 = 1,
  STORE_FLOAT16 = 2,
  STORE_BYTE = 3,  // (bits byte << shift) * factor[row], for exponents and small floats without sign; 0 is zero
};
struct PerBlock {
  const void* data;  // null: there is none
  int32_t store, shift;
  const float* factor;  // one a row, padded to 16 rows
};

// W[r, c] = number(code[r, c]) * scale[r, c / group] + offset[r, c / group].
// Codes lie in tiles of 16 rows: [tile][unit][word][16]. A unit is so many columns that their codes fill whole words of 32 bits (8 columns
// of 4 bits are one word, 32 of 3 bits are three); code i of a row is at bit i * bits of the row's words. The columns of a group are
// filled up to whole units with a code that stands for a finite number, where x counts as zero.
struct PackedLinear {
  size_t rows, columns, group, groups, units;  // units of a group
  int32_t bits, decode;
  const uint32_t* codes;
  const float* table;         // 256 numbers; those of codes up to 4 bits repeat
  const uint8_t* magnitudes;  // SYMMETRIC: 128 lower and 128 upper bytes of the bfloat16 numbers
  PerBlock scale, offset;
  // whole numbers: number(code) = unit * (whole[code] - zero); where bits is 8, whole is code ^ flip
  int32_t whole_known, zero, flip;
  float unit;
  uint8_t whole[64];  // repeat
};

constexpr size_t TILE_ROWS = 16;
constexpr size_t words_of(int bits) { return bits == 3 || bits == 5 || bits == 6 ? (bits == 6 ? 3 : (size_t)bits) : 1; }
constexpr size_t codes_of(int bits) { return words_of(bits) * 32 / (size_t)bits; }
inline size_t tiles_of(const PackedLinear& w) { return (w.rows + TILE_ROWS - 1) / TILE_ROWS; }
inline size_t columns_of(const PackedLinear& w) { return w.groups * w.units * codes_of(w.bits); }  // as stored
inline size_t words_of_group(const PackedLinear& w) { return w.units * words_of(w.bits) * TILE_ROWS; }

constexpr size_t MOST_ROWS = 24;  // of x that kernels take at a time

}  // namespace lowbit
