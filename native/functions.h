// Exponentials and activations, a vector at a time.
#pragma once
#include "vector.h"

namespace {

// exp(x), relative error 1e-7 (Cephes' polynomial); 0 below -103, infinity above 88.7, NaN of NaN.
MM_INLINE vf exp(vf x) {
  vf kept = max(min(x, all(89.0f)), all(-104.0f));
  vf n = (kept * 1.44269504f + 12582912.0f) - 12582912.0f;
  vf f = (kept - n * 0.693359375f) + n * 2.12194440e-4f;
  vf p = all(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.0f;
  vi half = __builtin_convertvector(n, vi) / 2, rest = __builtin_convertvector(n, vi) - half;
  p = p * bits_as_floats((half + 127) << 23) * bits_as_floats((rest + 127) << 23);
  return x == x ? p : x;
}

MM_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }

MM_INLINE vf gelu_erf(vf x) {
  vf y;
  for (int i = 0; i < W; i++) y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
  return y;
}
MM_INLINE vf gelu_tanh(vf x) { return x * sigmoid(x * (1.5957691216f + 0.0713548163f * x * x)); }

MM_INLINE vf activate(int kind, vf x) {
  switch (kind) {
    case MM_GELU_ERF: return gelu_erf(x);
    case MM_GELU_TANH: return gelu_tanh(x);
    case MM_QUICK_GELU: return x * sigmoid(1.702f * x);
    case MM_SILU: return x * sigmoid(x);
    case MM_RELU: return x > 0.0f || x != x ? x : all(0.0f);
    default: return x;
  }
}

}  // namespace
