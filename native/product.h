// Products with a weight that is stored in one way or another.
#pragma once
#include "functions.h"
#include "pool.h"
#include "product_quantised.h"
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
  if (quantised_product_serves(*w, *c)) return product_quantised(w, c);
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

}  // namespace
