// Layer and RMS normalisation.
#pragma once
#include "rows.h"

namespace {

// Numbers that are added up in float32, 4 W sums side by side; the sums of more are added in float64.
constexpr int64_t kSummed = 64 * W;

struct Moments {
  double sum, squares;
};

// Of x - centre.
MM_INLINE Moments moments(const float* x, int64_t n, float centre) {
  Moments total = {0, 0};
  for (int64_t first = 0; first < n; first += kSummed) {
    const int64_t end = least(n, first + kSummed);
    vf sums[4] = {}, squares[4] = {};
    int64_t i = first;
    for (; i + 4 * W <= end; i += 4 * W)
      MM_UNROLL for (int j = 0; j < 4; j++) {
        const vf d = load(x + i + j * W) - centre;
        sums[j] += d, squares[j] += d * d;
      }
    for (; i < end; i += W) {
      const vf d = (end - i >= W ? load(x + i) : load_some(x + i, end - i, centre)) - centre;
      sums[0] += d, squares[0] += d * d;
    }
    total.sum += sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    total.squares += sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
  }
  return total;
}

// y = (x - centre - rest) scale, weighted and shifted, + residual; what is null is left out.
MM_INLINE void scale_row(const float* x, int64_t n, float centre, float rest, float scale, const float* weight,
                         const float* bias, const float* residual, float* y) {
  const auto one = [=](int64_t i, auto read) {
    vf v = ((read(x + i) - centre) - rest) * scale;
    if (weight) v *= read(weight + i);
    if (bias) v += read(bias + i);
    return residual ? v + read(residual + i) : v;
  };
  int64_t i = 0;
  for (; i + W <= n; i += W) store(y + i, one(i, [](const float* p) { return load(p); }));
  const int64_t left = n - i;
  if (left) store_some(y + i, one(i, [=](const float* p) { return load_some(p, left); }), left);
}

// The mean is found in two steps, the second relative to the first: a large one takes nothing from what is around it.
int32_t layer_norm(const float* x, int64_t rows, int64_t cols, const float* weight, const float* bias, float eps,
                   const float* residual, float* y) {
  rows_in_parallel(rows, cols, [=](int64_t r) {
    const float* mine = x + r * cols;
    const float centre = float(moments(mine, cols, 0).sum / cols);
    const Moments m = moments(mine, cols, centre);
    const double rest = m.sum / cols, spread = m.squares / cols - rest * rest;
    const float scale = float(1 / ::sqrt((spread < 0 ? 0 : spread) + eps));
    scale_row(mine, cols, centre, float(rest), scale, weight, bias, residual ? residual + r * cols : nullptr,
              y + r * cols);
  });
  return MM_OK;
}

int32_t rms_norm(const float* x, int64_t rows, int64_t cols, const float* weight, float eps, const float* residual,
                 float* y) {
  rows_in_parallel(rows, cols, [=](int64_t r) {
    const float* mine = x + r * cols;
    const float scale = float(1 / ::sqrt(moments(mine, cols, 0).squares / cols + eps));
    scale_row(mine, cols, 0, 0, scale, weight, nullptr, residual ? residual + r * cols : nullptr, y + r * cols);
  });
  return MM_OK;
}

}  // namespace
