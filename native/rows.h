// Row by row, by several threads: how work is split, and rows that only move.
#pragma once
#include "pool.h"
#include "vector.h"

namespace {

constexpr int64_t kNumbersPerJob = 1 << 14;

template <class Row>
MM_INLINE void rows_in_parallel(int64_t rows, int64_t cols, const Row& row) {
  const int64_t step = cols >= kNumbersPerJob ? 1 : kNumbersPerJob / (cols ? cols : 1);
  mm::parallel(ceil_div(rows, step), [&](int64_t job) {
    for (int64_t r = job * step; r < least(rows, (job + 1) * step); r++) row(r);
  });
}

int32_t patches(const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t size, float* y) {
  const int64_t rows = height / size, cols = width / size, run = size * channels;
  mm::parallel(batch * rows, [=](int64_t job) {
    const int64_t b = job / rows, r = job % rows;
    for (int64_t i = 0; i < size; i++) {
      const float* line = x + ((b * height + r * size + i) * width) * channels;
      for (int64_t c = 0; c < cols; c++)
        memcpy(y + ((job * cols + c) * size + i) * run, line + c * run, run * sizeof(float));
    }
  });
  return MM_OK;
}

int32_t take_rows(const float* x, int64_t batch, int64_t rows, int64_t cols, const int32_t* order, int64_t count,
                  float* y) {
  for (int64_t i = 0; i < count; i++)
    if (order[i] < 0 || order[i] >= rows) return MM_UNSUPPORTED;
  rows_in_parallel(batch * count, cols, [=](int64_t r) {
    memcpy(y + r * cols, x + (r / count * rows + order[r % count]) * cols, cols * sizeof(float));
  });
  return MM_OK;
}

}  // namespace
