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
MM_INLINE float number(const void* p, int32_t type, int64_t i) {
  if (type == MM_BFLOAT16) return bfloat16(static_cast<const uint16_t*>(p)[i]);
  if (type == MM_FLOAT16) return float16(static_cast<const uint16_t*>(p)[i]);
  return static_cast<const float*>(p)[i];
}

// OCP Microscaling Formats 1.0, sections 5.3 and 5.4.
MM_INLINE float e2m1(uint32_t v) {
  constexpr float table[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  return v & 8 ? -table[v & 7] : table[v & 7];
}
MM_INLINE float e4m3(uint8_t v) {
  const int exponent = v >> 3 & 15, mantissa = v & 7;
  const float f = exponent == 15 && mantissa == 7 ? NAN
                  : exponent                      ? ldexpf(1 + mantissa / 8.0f, exponent - 7)
                                                  : ldexpf(mantissa / 8.0f, -6);
  return v & 0x80 ? -f : f;
}
MM_INLINE float e8m0(uint8_t v) { return v == 255 ? NAN : ldexpf(1, v - 127); }


// The same for W numbers, each stored in the low bits of 32.
// A number of one sign bit, kExponent bits of exponent and kMantissa of mantissa; subnormal ones have no other treatment
// than to lose the one that an exponent of 0 does not stand for, so that no processor meets a subnormal float32.
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

MM_INLINE uint32_t stored_bits(const mm_weight& w, int64_t row, int64_t col) {
  const uint8_t* bytes = static_cast<const uint8_t*>(w.data) + row * words_per_row(w) * 4;
  const int64_t at = col * w.bits;
  const uint32_t two = bytes[at / 8] | uint32_t(at % 8 + w.bits > 8 ? bytes[at / 8 + 1] : 0) << 8;
  return two >> at % 8 & ((1u << w.bits) - 1);
}

// One number of a weight, of whatever kind but MM_PACKED.
MM_INLINE float weight_at(const mm_weight& w, int64_t row, int64_t col) {
  if (w.kind == MM_ROWS) return number(w.data, w.type, row * w.cols + col);
  const int64_t group = row * (w.cols / w.group_size) + col / w.group_size;
  const uint32_t bits = stored_bits(w, row, col);
  const uint8_t* scales = static_cast<const uint8_t*>(w.scales);
  switch (w.kind) {
    case MM_AFFINE: return number(w.scales, w.type, group) * bits + number(w.biases, w.type, group);
    case MM_MXFP4: return e8m0(scales[group]) * e2m1(bits);
    case MM_MXFP8: return e8m0(scales[group]) * e4m3(bits);
    default: return e4m3(scales[group]) * e2m1(bits);
  }
}

}  // namespace
