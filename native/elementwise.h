// Activations of many numbers, gated or not.
#pragma once
#include "functions.h"
#include "rows.h"

namespace {

// y[i] = activation(x[i]), times up[i] unless that is null.
MM_INLINE void activate_row(int32_t kind, const float* x, const float* up, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + W <= n; i += W) {
    const vf v = activate(kind, load(x + i));
    store(y + i, up ? v * load(up + i) : v);
  }
  const int64_t left = n - i;
  if (!left) return;
  const vf v = activate(kind, load_some(x + i, left));
  store_some(y + i, up ? v * load_some(up + i, left) : v, left);
}

int32_t activation(int32_t kind, const float* x, int64_t count, float* y) {
  mm::parallel(ceil_div(count, kNumbersPerJob), [=](int64_t job) {
    const int64_t first = job * kNumbersPerJob;
    activate_row(kind, x + first, nullptr, least(count - first, kNumbersPerJob), y + first);
  });
  return MM_OK;
}

int32_t gated(int32_t kind, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows, int64_t cols,
              float* y) {
  const int64_t step = least(cols ? cols : 1, kNumbersPerJob), parts = ceil_div(cols, step);
  rows_in_parallel(rows * parts, step, [=](int64_t part) {  // one row is shared, too
    const int64_t r = part / parts, first = part % parts * step;
    activate_row(kind, gate + r * ldg + first, up + r * ldu + first, least(cols - first, step), y + r * cols + first);
  });
  return MM_OK;
}

}  // namespace
