// Weights as they are stored, and how their numbers are read.
#pragma once
#include "transpose.h"

namespace {

MM_INLINE float bfloat16(uint16_t v) {
  const uint32_t bits = uint32_t(v) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
// IEEE 754 binary16, subnormal numbers, infinities and NaN among them.
MM_INLINE float float16(uint16_t v) {
  const uint32_t sign = uint32_t(v & 0x8000) << 16, magnitude = v & 0x7fff;
  uint32_t bits = magnitude >= 0x7c00 ? 0x7f800000 | (magnitude & 0x3ff) << 13 : (magnitude << 13) + (112u << 23);
  float f;
  if (magnitude < 0x400) {
    f = float(magnitude) * 5.9604644775390625e-08f;  // 2^-24
    memcpy(&bits, &f, 4);
  }
  bits |= sign;
  memcpy(&f, &bits, 4);
  return f;
}
// OCP Microscaling Formats 1.0, sections 5.3 and 5.4.
MM_INLINE float e4m3(uint8_t v) {
  const int exponent = v >> 3 & 15, mantissa = v & 7;
  const float f = exponent == 15 && mantissa == 7 ? NAN
                  : exponent                      ? ldexpf(1 + mantissa / 8.0f, exponent - 7)
                                                  : ldexpf(mantissa / 8.0f, -6);
  return v & 0x80 ? -f : f;
}
MM_INLINE float e8m0(uint8_t v) { return v == 255 ? NAN : ldexpf(1, v - 127); }

// The same for W numbers, each stored in the low bits of 32.

// A number of one sign bit, kExponent bits of exponent and kMantissa of mantissa. Those with exponent 0 are read as if
// they had exponent 1 and a leading one, which is then taken away: no float32 is subnormal on the way, which is slow.
template <int kExponent, int kMantissa>
MM_INLINE vf small_floats(vu v) {
  constexpr int bias = (1 << (kExponent - 1)) - 1;
  constexpr float smallest = 2.0f / (1 << bias);  // with exponent 1
  const vu magnitude = v & ((1u << (kExponent + kMantissa)) - 1);
  const vf normal = reinterpret_cast<vf>((magnitude << (23 - kMantissa)) + (uint32_t(127 - bias) << 23));
  const vf f = magnitude < (1u << kMantissa) ? 2 * normal - smallest : normal;
  return reinterpret_cast<vf>(reinterpret_cast<vu>(f) | (v >> (kExponent + kMantissa)) << 31);
}
MM_INLINE vf or_bits(vf v, vi where, uint32_t bits) {
  return reinterpret_cast<vf>(reinterpret_cast<vu>(v) | (reinterpret_cast<vu>(where) & bits));
}
MM_INLINE vf bfloat16s(vu v) { return reinterpret_cast<vf>(v << 16); }
MM_INLINE vf float16s(vu v) { return or_bits(small_floats<5, 10>(v), (v & 0x7fff) >= 0x7c00u, 0x7f800000); }
MM_INLINE vf e2m1s(vu v) { return small_floats<2, 1>(v); }
MM_INLINE vf e4m3s(vu v) { return or_bits(small_floats<4, 3>(v), (v & 0x7f) == 0x7fu, 0x7fc00000); }
MM_INLINE vf e8m0s(vu v) {
  const vf f = reinterpret_cast<vf>(v << 23 | (reinterpret_cast<vu>(v == 0u) & 0x00400000u));  // 2^-127 is subnormal
  return or_bits(f, v == 255u, 0x7fc00000);
}

MM_INLINE int64_t words_per_row(const mm_weight& w) { return w.cols * w.bits / 32; }

}  // namespace
