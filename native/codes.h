// The codes of a quantised weight and their scales, as MLX stores them: number = scale * code + bias.
//
// A code is a byte from 0. A row's codes come in blocks of one vector: of 4 W codes in their order, or, for 4 bits,
// of 8 W, the low halves of all bytes first and then the high ones. A group of up to 64 codes is a step, of 128 two.
#pragma once
#include "integers.h"
#include "weights.h"

namespace {

constexpr int64_t kLongestStep = 64;

MM_INLINE int64_t step_of(const mm_weight& w) { return least(w.group_size, kLongestStep); }
MM_INLINE bool is_affine(const mm_weight& w) { return w.kind == MM_AFFINE || w.kind == MM_AFFINE_PACKED; }
MM_INLINE bool is_fp4(const mm_weight& w) { return w.kind == MM_MXFP4 || w.kind == MM_NVFP4; }

// How codes are read. Table: they are e2m1, and become twice their number plus 12.
template <int Bits, bool Table>
struct Codes {
  static constexpr int kBits = Bits;
  static constexpr bool kWide = Bits == 8;
  static constexpr int kVectors = Bits == 4 ? 2 : 1;    // in a block
  static constexpr int64_t kCodes = 4 * W * kVectors;   // in a block
  static constexpr int64_t kBytes = kCodes * Bits / 8;  // of a block
  static constexpr bool kTable = Table;
};

// Run body(Codes<...>{}) for the kind of a weight.
template <class Body>
MM_INLINE void with_codes(const mm_weight& w, const Body& body) {
  if (is_fp4(w)) return body(Codes<4, true>{});
  switch (w.bits) {
    case 2: return body(Codes<2, false>{});
    case 3: return body(Codes<3, false>{});
    case 4: return body(Codes<4, false>{});
    case 5: return body(Codes<5, false>{});
    case 6: return body(Codes<6, false>{});
    default: return body(Codes<8, false>{});
  }
}

// Four codes from the low bits of each word, in its bytes.
template <int Bits>
MM_INLINE vi separate(vi v) {
  constexpr int mask = (1 << Bits) - 1, apart = 8 - Bits;
  return (v & mask) | (v << apart & mask << 8) | (v << 2 * apart & mask << 16) | (v << 3 * apart & mask << 24);
}

// Where the four codes of a word begin among those of 16, which take 2 * Bits bytes.
constexpr int first_byte(int bits, int word) { return bits * word / 2; }
constexpr int first_bit(int bits, int word) { return bits * word % 2 * 4; }

#if defined(__AVX2__)
template <int Bits>
struct Spread {  // of the bytes within 128 bits, and the shift of each word
  int8_t bytes[4 * W];
  int32_t shifts[W];
  int16_t pairs[2 * W];  // of the bytes of all, so that each 128 bits have those of 16 codes
  constexpr Spread() : bytes(), shifts(), pairs() {
    for (int i = 0; i < W; i++) {
      for (int j = 0; j < 4; j++) {
        const int at = first_byte(Bits, i % 4) + j;
        bytes[4 * i + j] = int8_t(at < 2 * Bits ? at : -1);
      }
      shifts[i] = first_bit(Bits, i % 4);
    }
    for (int i = 0; i < 2 * W; i++) pairs[i] = int16_t(i / 8 * Bits + (i % 8 < Bits ? i % 8 : 0));
  }
};
#endif

// 4 W codes of 2, 3, 5 or 6 bits.
template <int Bits>
MM_INLINE vi spread(const uint8_t* p) {
#if defined(__AVX2__)
  static constexpr Spread<Bits> k;
#if defined(__AVX512F__)
  const __m512i packed = _mm512_maskz_loadu_epi32((1 << 2 * Bits) - 1, p);
  const __m512i lanes = _mm512_permutexvar_epi16(MM_M(load_words(k.pairs)), packed);
  const __m512i words = _mm512_shuffle_epi8(lanes, MM_M(load_words(k.bytes)));
  return separate<Bits>(reinterpret_cast<vi>(_mm512_srlv_epi32(words, MM_M(load_words(k.shifts)))));
#else
  uint8_t lanes[32] = {};
  memcpy(lanes, p, 2 * Bits);
  memcpy(lanes + 16, p + 2 * Bits, 2 * Bits);
  const __m256i words = _mm256_shuffle_epi8(MM_M(load_words(lanes)), MM_M(load_words(k.bytes)));
  return separate<Bits>(reinterpret_cast<vi>(_mm256_srlv_epi32(words, MM_M(load_words(k.shifts)))));
#endif
#else
  vi v;
  for (int i = 0; i < W; i++) {
    const int at = first_byte(Bits, i), shift = first_bit(Bits, i);
    uint32_t word = p[at];
    if (4 * Bits + shift > 8) word |= uint32_t(p[at + 1]) << 8;
    if (4 * Bits + shift > 16) word |= uint32_t(p[at + 2]) << 16;
    v[i] = int32_t(word >> shift);
  }
  return separate<Bits>(v);
#endif
}

// e2m1, a byte each -> twice the number, plus 12 (OCP Microscaling Formats 1.0, 5.3.3).
MM_INLINE vi table_of_e2m1(vi v) {
  alignas(16) static constexpr uint8_t table[] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
#if defined(__AVX512F__)
  const __m512i all = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<vi>(_mm512_shuffle_epi8(all, MM_M(v)));
#elif defined(__AVX2__)
  const __m256i all = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<vi>(_mm256_shuffle_epi8(all, MM_M(v)));
#elif defined(__aarch64__)
  return reinterpret_cast<vi>(vqtbl1q_u8(vld1q_u8(table), reinterpret_cast<uint8x16_t>(v)));
#else
  uint8_t bytes[4 * W];
  memcpy(bytes, &v, sizeof v);
  for (uint8_t& b : bytes) b = table[b];
  return load_words(bytes);
#endif
}

// A block as it is stored: for 4 bits two codes in each byte, else one.
template <class C>
MM_INLINE vi load_block(const uint8_t* p) {
  if constexpr (C::kBits == 4 || C::kBits == 8)
    return load_words(p);
  else
    return spread<C::kBits>(p);
}
// The same of a row's last bytes, `left` of them; what is missing reads as 0.
template <class C>
MM_INLINE vi load_last_block(const uint8_t* p, int64_t left) {
  uint8_t bytes[C::kBytes] = {};
  memcpy(bytes, p, left);
  return load_block<C>(bytes);
}
// Vector number `part` of a block's codes.
template <class C>
MM_INLINE vi codes_in(vi block, int part) {
  if constexpr (C::kBits == 4) {
    const vi codes = (part ? block >> 4 : block) & 0x0f0f0f0f;
    return C::kTable ? table_of_e2m1(codes) : codes;
  } else {
    return C::kWide && kSignedCodes ? block ^ int32_t(0x80808080) : block;
  }
}

// W numbers as float32, or the first `count` of them and zeros.
MM_INLINE vf as_floats(const float* x, int64_t count) { return count < W ? load_some(x, count) : load(x); }
MM_INLINE vf as_floats(const uint16_t* x, int32_t type, int64_t count) {
#if defined(__AVX512F__)
  const __mmask16 some = count < W ? (1u << count) - 1 : 0xffff;
  const __m256i half = _mm256_maskz_loadu_epi16(some, x);
  const __m512 wide = type == MM_FLOAT16 ? _mm512_cvtph_ps(half)
                                         : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  return reinterpret_cast<vf>(wide);
#else
  uint16_t t[W] = {};
  memcpy(t, x, (count < W ? count : W) * sizeof *t);
#if defined(__AVX2__)
  __m128i half;
  memcpy(&half, t, 16);
  const __m256 wide = type == MM_FLOAT16 ? _mm256_cvtph_ps(half)
                                         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  return reinterpret_cast<vf>(wide);
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = type == MM_FLOAT16 ? float16(t[i]) : bfloat16(t[i]);
  return v;
#endif
#endif
}

// Numbers `first` to `first + count` of an array as float32, in whole vectors.
MM_INLINE void to_floats(const void* data, int32_t type, int64_t first, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += W)
    store(y + i, type == MM_FLOAT32 ? as_floats(static_cast<const float*>(data) + first + i, count - i)
                                    : as_floats(static_cast<const uint16_t*>(data) + first + i, type, count - i));
}

// The scale and bias of each step of a row; arrays have room for whole vectors, which are filled up with zeros.
static void scales_of_row(const mm_weight& w, int64_t row, float* scales, float* biases) {
  const int64_t groups = w.cols / w.group_size, first = row * groups, steps = w.cols / step_of(w);
  if (is_affine(w)) {
    to_floats(w.scales, w.type, first, groups, scales);
    to_floats(w.biases, w.type, first, groups, biases);
    if (kSignedCodes && w.bits == 8)
      for (int64_t i = 0; i < groups; i++) biases[i] += 128 * scales[i];
  } else {
    const uint8_t* bytes = static_cast<const uint8_t*>(w.scales) + first;
    for (int64_t i = 0; i < groups; i++) {
      scales[i] = 0.5f * (w.kind == MM_MXFP4 ? e8m0(bytes[i]) : e4m3(bytes[i]));
      biases[i] = -12 * scales[i];
    }
  }
  if (steps > groups)
    for (int64_t i = steps - 1; i >= 0; i--) scales[i] = scales[i / 2], biases[i] = biases[i / 2];
  if (steps > groups || w.kind != MM_AFFINE)  // else it is done
    for (int64_t i = steps; i % W; i++) scales[i] = biases[i] = 0;
}

}  // namespace
