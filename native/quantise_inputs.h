// Inputs as whole numbers, with a scale for each row and step.
#pragma once
#include "codes.h"

namespace {

constexpr int kMost8 = 127, kMost16 = 127 * 128;  // the greatest magnitude of an input that is one byte, or two
constexpr float kRound = 12582912.0f;             // 1.5 * 2^23: adding it rounds to a whole number, in the low bits
constexpr int32_t kRoundBits = 0x4b400000;
constexpr float kNothing = 1e-30f;  // a step of inputs below it is 0, so that 127 / greatest is finite

// The greatest magnitude of `count` numbers, NaN where one is not finite: as integers, magnitudes are in order.
MM_INLINE float greatest_magnitude(const float* x, int64_t count) {
  vi most{};
  for (int64_t i = 0; i < count; i += W) {
    const vi magnitude = bits_of(load(x + i)) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  const int32_t bits = greatest_word(most);
  if (bits >= 0x7f800000) return NAN;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

MM_INLINE vi round(vf x, float inverse) { return bits_of(multiply_add(x, all(inverse), all(kRound))) - kRoundBits; }

// One step as bytes. `sum` is of what the bytes stand for: an affine weight's bias is multiplied by it.
MM_INLINE void quantise_step8(const float* x, int64_t step, int8_t* bytes, float* scale, float* sum) {
  const float greatest = greatest_magnitude(x, step), inverse = greatest > kNothing ? kMost8 / greatest : 0;
  vi total{};
  int64_t i = 0;
  for (; i + 4 * W <= step; i += 4 * W) {
    const vi a = round(load(x + i), inverse), b = round(load(x + i + W), inverse);
    const vi c = round(load(x + i + 2 * W), inverse), d = round(load(x + i + 3 * W), inverse);
    total += (a + b) + (c + d);
    store_bytes(bytes + i, a, b, c, d);
  }
  for (; i < step; i += W) {
    const vi whole = round(load(x + i), inverse);
    total += whole;
    store_bytes(bytes + i, whole);
  }
  *scale = greatest / kMost8;
  *sum = *scale * float(sum_of_words(total));
}

// The same as two bytes, 128 * high + low.
MM_INLINE void quantise_step16(const float* x, int64_t step, int8_t* high, int8_t* low, float* scale, float* sum) {
  const float greatest = greatest_magnitude(x, step), inverse = greatest > kNothing ? kMost16 / greatest : 0;
  vi total{};
  for (int64_t i = 0; i < step; i += W) {
    const vi whole = round(load(x + i), inverse), upper = (whole + 64) >> 7;
    total += whole;
    store_bytes(high + i, upper);
    store_bytes(low + i, whole - (upper << 7));
  }
  *scale = greatest / kMost16;
  *sum = *scale * float(sum_of_words(total));
}

// 16 bytes: those at even places of each 8, then those at odd ones, as the halves of packed bytes have them.
MM_INLINE void even_odd(int8_t* p) {
#if defined(__SSE2__)
  __m128i v;
  memcpy(&v, p, 16);
  v = _mm_packus_epi16(_mm_and_si128(v, _mm_set1_epi16(255)), _mm_srli_epi16(v, 8));
  v = _mm_shuffle_epi32(v, 0xd8);
  memcpy(p, &v, 16);
#else
  int8_t t[16];
  for (int i = 0; i < 16; i++) t[i / 8 * 8 + i % 2 * 4 + i % 8 / 2] = p[i];
  memcpy(p, t, 16);
#endif
}

}  // namespace
