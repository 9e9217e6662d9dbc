// Exponentials and activations, a vector at a time. A NaN comes out as NaN: `min` and `max` keep their second argument
// where the two cannot be compared, so that is where it goes.
#pragma once
#include "vector.h"

namespace {

struct Exponent {
  vf fraction;  // exp(x) / 2^power, between 0.7 and 1.5
  vf power;     // whole
  vi bits;      // power as an integer
};

// Cephes' expf: x = power ln 2 + f, ln 2 in two parts of which the first has few bits, and a polynomial in f.
MM_INLINE Exponent split_exp(vf x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: where floats are whole numbers
  const vf shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const vf f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vf p = all(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  return {p * (f * f) + f + 1.0f, n, bits_of(shifted) - bits_of(all(kRound))};
}

MM_INLINE vf two_to(vi power) { return bits_as_floats((power + 127) << 23); }  // of -126 to 127

// Relative error below 1e-7; 0 below -104, infinity above 88.8.
MM_INLINE vf exp(vf x) {
  const Exponent e = split_exp(max(all(-104.0f), min(all(89.0f), x)));
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(
      _mm512_scalef_ps(reinterpret_cast<__m512>(e.fraction), reinterpret_cast<__m512>(e.power)));
#else
  const vi half = e.bits >> 1;  // in two steps: the result may be subnormal, or 2^128
  return e.fraction * two_to(half) * two_to(e.bits - half);
#endif
}

// exp(x) for x <= 0, and 0 below -87: a subnormal number adds nothing to a sum of a softmax, and is slow.
MM_INLINE vf exp_of_negative(vf x) {
  const Exponent e = split_exp(x);
#if defined(__AVX512F__)
  const __mmask16 kept = _mm512_cmp_ps_mask(reinterpret_cast<__m512>(x), _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  return reinterpret_cast<vf>(
      _mm512_maskz_scalef_ps(kept, reinterpret_cast<__m512>(e.fraction), reinterpret_cast<__m512>(e.power)));
#else
  return x < -87.0f ? vf{} : e.fraction * two_to(e.bits);
#endif
}

// |x|, or a number from which on the functions below are max(x, 0): infinity over infinity would be NaN.
MM_INLINE vf magnitude(vf x) { return min(all(104.0f), abs(x)); }

// max(x, 0) - t erfc(t / sqrt 2) / 2 for t = |x|, where 1 / erfc is p(t)^8 by benchmarks/fit_polynomials.py
// (ERFC_NATIVE): error 4.8e-8, and 2e-7 with float32's rounding.
MM_INLINE vf gelu_erf(vf x) {
  const vf t = min(all(40.0f), abs(x));
  vf p = all(2.9321447527763667e-06f);
  p = p * t - 1.6743251762818545e-05f;
  p = p * t + 9.756416693562642e-05f;
  p = p * t + 0.00011139292473671958f;
  p = p * t + 0.000980608630925417f;
  p = p * t + 0.00859166868031025f;
  p = p * t + 0.04478878900408745f;
  p = p * t + 0.09973249584436417f;
  p = p * t + 1.0f;
  p = p * p;
  p = p * p;
  return max(all(0.0f), x) - 0.5f * t / (p * p);
}
// x / (1 + exp(-z)) for a z that is positive as t = |x| is: max(x, 0) - t / (1 + exp(z)), whose error does not grow with x.
MM_INLINE vf times_sigmoid(vf x, vf t, vf z) { return max(all(0.0f), x) - t / (1.0f + exp(z)); }

// (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3).
MM_INLINE vf gelu_tanh(vf x) {
  const vf t = magnitude(x);
  return times_sigmoid(x, t, t * (1.5957691216f + 0.0713548163f * (t * t)));
}
MM_INLINE vf quick_gelu(vf x) {
  const vf t = magnitude(x);
  return times_sigmoid(x, t, 1.702f * t);
}
MM_INLINE vf silu(vf x) {
  const vf t = magnitude(x);
  return times_sigmoid(x, t, t);
}
MM_INLINE vf relu(vf x) { return max(all(0.0f), x); }

// Of several vectors, which do not wait for each other.
template <int kCount>
MM_INLINE void activate_all(int kind, vf* x) {
#define MM_ALL(function) \
  MM_UNROLL              \
  for (int i = 0; i < kCount; i++) x[i] = function(x[i])
  switch (kind) {
    case MM_GELU_ERF: MM_ALL(gelu_erf); break;
    case MM_GELU_TANH: MM_ALL(gelu_tanh); break;
    case MM_QUICK_GELU: MM_ALL(quick_gelu); break;
    case MM_SILU: MM_ALL(silu); break;
    case MM_RELU: MM_ALL(relu); break;
  }
#undef MM_ALL
}

MM_INLINE vf activate(int kind, vf x) {
  switch (kind) {
    case MM_GELU_ERF: return gelu_erf(x);
    case MM_GELU_TANH: return gelu_tanh(x);
    case MM_QUICK_GELU: return quick_gelu(x);
    case MM_SILU: return silu(x);
    case MM_RELU: return relu(x);
    default: return x;
  }
}

}  // namespace
