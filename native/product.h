// Products with a weight that is stored in one way or another.
#pragma once
#include "functions.h"
#include "pool.h"
#include "weights.h"

namespace {

constexpr int64_t kPanel = 3 * W;

int32_t pack(const mm_weight* w, float* packed) {
  mm::parallel(ceil_div(w->rows, kPanel), [=](int64_t p) {
    float* d = packed + p * kPanel * w->cols;
    for (int64_t k = 0; k < w->cols; k++)
      for (int64_t j = 0; j < kPanel; j++)
        d[k * kPanel + j] = p * kPanel + j < w->rows ? weight_at(*w, p * kPanel + j, k) : 0;
  });
  return MM_OK;
}

int32_t product(const mm_weight* w, const mm_product_call* c) {
  mm::parallel(c->m, [=](int64_t m) {
    for (int64_t n = 0; n < w->rows; n++) {
      float s = 0;
      for (int64_t k = 0; k < w->cols; k++)
        s += c->x[m * c->ldx + k] * (w->kind == MM_PACKED ? static_cast<const float*>(w->data)[(n / kPanel * w->cols + k) *
                                                                                              kPanel + n % kPanel]
                                                          : weight_at(*w, n, k));
      if (c->bias) s += c->bias[n];
      s = activate(c->activation, all(s))[0];
      c->y[m * c->ldy + n] = s + (c->residual ? c->residual[m * c->ldr + n] : 0);
    }
  });
  return MM_OK;
}

int32_t experts(const mm_weight* w, int64_t count, const int32_t* chosen, const mm_product_call* c) {
  for (int64_t i = 0; i < c->m; i++) {
    if (chosen[i] < 0 || chosen[i] >= count) return MM_UNSUPPORTED;
    mm_weight one = *w;
    const int64_t groups = w->group_size ? w->rows * (w->cols / w->group_size) : 0;
    const int64_t scale = w->kind == MM_AFFINE ? (w->type == MM_FLOAT32 ? 4 : 2) : 1;
    const int64_t bytes = w->kind == MM_ROWS ? w->rows * w->cols * (w->type == MM_FLOAT32 ? 4 : 2)
                                             : w->rows * words_per_row(*w) * 4;
    one.data = static_cast<const char*>(w->data) + chosen[i] * bytes;
    if (w->scales) one.scales = static_cast<const char*>(w->scales) + chosen[i] * groups * scale;
    if (w->biases) one.biases = static_cast<const char*>(w->biases) + chosen[i] * groups * scale;
    mm_product_call row = *c;
    row.x += i * c->ldx, row.y += i * c->ldy, row.m = 1;
    if (c->residual) row.residual += i * c->ldr;
    if (const int32_t status = product(&one, &row)) return status;
  }
  return MM_OK;
}

}  // namespace
