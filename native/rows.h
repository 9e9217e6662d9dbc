// What is computed row by row or number by number: norms, activations, rotary positions, patches.
#pragma once
#include "functions.h"
#include "pool.h"

namespace {

constexpr int64_t kNumbersPerJob = 1 << 14;

template <class Row>
MM_INLINE void rows_in_parallel(int64_t rows, int64_t cols, const Row& row) {
  const int64_t step = cols >= kNumbersPerJob ? 1 : kNumbersPerJob / (cols ? cols : 1);
  mm::parallel(ceil_div(rows, step), [&](int64_t job) {
    for (int64_t r = job * step; r < least(rows, (job + 1) * step); r++) row(r);
  });
}

int32_t layer_norm(const float* x, int64_t rows, int64_t cols, const float* weight, const float* bias, float eps,
                   const float* residual, float* y) {
  rows_in_parallel(rows, cols, [=](int64_t r) {
    const float* p = x + r * cols;
    double mean = 0, square = 0;
    for (int64_t i = 0; i < cols; i++) mean += p[i];
    mean /= cols;
    for (int64_t i = 0; i < cols; i++) square += (p[i] - mean) * (p[i] - mean);
    const float scale = 1.0 / ::sqrt(square / cols + eps);
    for (int64_t i = 0; i < cols; i++) {
      float v = float(p[i] - mean) * scale;
      if (weight) v *= weight[i];
      if (bias) v += bias[i];
      y[r * cols + i] = v + (residual ? residual[r * cols + i] : 0);
    }
  });
  return MM_OK;
}

int32_t rms_norm(const float* x, int64_t rows, int64_t cols, const float* weight, float eps, const float* residual,
                 float* y) {
  rows_in_parallel(rows, cols, [=](int64_t r) {
    const float* p = x + r * cols;
    double square = 0;
    for (int64_t i = 0; i < cols; i++) square += double(p[i]) * p[i];
    const float scale = 1.0 / ::sqrt(square / cols + eps);
    for (int64_t i = 0; i < cols; i++)
      y[r * cols + i] = p[i] * scale * (weight ? weight[i] : 1) + (residual ? residual[r * cols + i] : 0);
  });
  return MM_OK;
}

int32_t activation(int32_t kind, const float* x, int64_t count, float* y) {
  mm::parallel(ceil_div(count, kNumbersPerJob), [=](int64_t job) {
    const int64_t end = least(count, (job + 1) * kNumbersPerJob);
    int64_t i = job * kNumbersPerJob;
    for (; i + W <= end; i += W) store(y + i, activate(kind, load(x + i)));
    if (i < end) store_some(y + i, activate(kind, load_some(x + i, end - i)), end - i);
  });
  return MM_OK;
}

int32_t gated(int32_t kind, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows, int64_t cols,
              float* y) {
  rows_in_parallel(rows, cols, [=](int64_t r) {
    const float *g = gate + r * ldg, *u = up + r * ldu;
    float* d = y + r * cols;
    int64_t i = 0;
    for (; i + W <= cols; i += W) store(d + i, activate(kind, load(g + i)) * load(u + i));
    const int64_t left = cols - i;
    if (left) store_some(d + i, activate(kind, load_some(g + i, left)) * load_some(u + i, left), left);
  });
  return MM_OK;
}

int32_t rotate(const mm_rotate_call* c) {
  rows_in_parallel(c->batch * c->length, c->heads * c->width, [=](int64_t row) {
    const int64_t b = row / c->length, l = row % c->length, half = c->dims / 2;
    const float* cos = c->cos + b * c->table_strides[0] + l * c->table_strides[1];
    const float* sin = c->sin + b * c->table_strides[0] + l * c->table_strides[1];
    for (int64_t h = 0; h < c->heads; h++) {
      const float* x = c->x + b * c->x_strides[0] + l * c->x_strides[1] + h * c->x_strides[2];
      float* y = c->y + b * c->y_strides[0] + l * c->y_strides[1] + h * c->y_strides[2];
      for (int64_t j = 0; j < half; j++) {
        const int64_t first = c->neighbours ? 2 * j : j, second = c->neighbours ? 2 * j + 1 : j + half;
        const float a = x[first], o = x[second];
        y[first] = a * cos[j] - o * sin[j];
        y[second] = o * cos[j] + a * sin[j];
      }
      if (x != y) memcpy(y + c->dims, x + c->dims, (c->width - c->dims) * sizeof(float));
    }
  });
  return MM_OK;
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

}  // namespace
